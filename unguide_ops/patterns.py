"""Regular expressions from users, without backtracking: a match takes time in proportion to pattern x text.

Python's own engine tries every way to match, which for `(a+)+b` are more than a lifetime has seconds, and nothing can
interrupt it. Here are all ways followed at once, letter by letter (Thompson 1968). What that cannot do, references to
groups and looking ahead or behind, is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable

LONGEST = 500  # characters of a pattern
MOST_STEPS = 2000  # of a program: `{m,n}` repeats them
MOST_REPEATS = 100
DEEPEST = 50  # brackets in brackets
MOST_WAYS = 5_000_000  # followed in all texts together: a few seconds
ATOM = re.compile(r"\\[dDsSwW]|\\[^A-Za-z0-9]|\[\^?\]?(?:\\.|[^\]\\])*\]|[^\\\[\]()|*+?{}^$]")
REPEATS = re.compile(r"(?:[*+?]|\{(\d{1,3})(,?)(\d{0,3})\})\??")

Step = Callable[[str], object] | tuple[int, ...] | str
"""A test of one letter; jumps, relative to the step; or the place where the text must be: `^` or `$`."""


class Pattern:
    """A pattern of letters, `.`, `[...]`, `\\d`, `\\w`, `\\s`, `( )`, `|`, `* + ? {m,n}`, `^` and `$`."""

    def __init__(self, text: str):
        """Raises ValueError for what is no such pattern, or a very long one: a clause that says what is wrong."""
        if len(text) > LONGEST:
            raise ValueError(f"it is {len(text)} characters long: use at most {LONGEST}")
        self._text, self._at, self._depth, self._followed = text, 0, 0, 0
        self._program = self._either()
        if self._at < len(text):
            raise ValueError("it closes a bracket that it never opens")

    def is_in(self, text: str) -> bool:
        """Whether it matches somewhere in the text. Raises ValueError, as above, when all texts take too much work."""
        ways: set[int] = set()
        for at in range(len(text) + 1):
            ways = self._reached({0, *ways}, at == 0, at == len(text))
            self._followed += len(ways)
            if self._followed > MOST_WAYS:
                raise ValueError("there are too many ways to match it: make it plainer")
            if len(self._program) in ways:
                return True
            letter = text[at : at + 1]
            steps = ((way, self._program[way]) for way in ways)
            ways = {way + 1 for way, step in steps if callable(step) and letter and step(letter)}
        return False

    def _reached(self, ways: set[int], begins: bool, ends: bool) -> set[int]:
        """All steps that follow from these without another letter."""
        found, new = set(ways), list(ways)
        while new:
            way = new.pop()
            step = self._program[way] if way < len(self._program) else ()
            if isinstance(step, str):
                step = (1,) if (begins if step == "^" else ends) else ()
            targets = {way + jump for jump in step} - found if isinstance(step, tuple) else set()
            found |= targets
            new += targets
        return found

    def _either(self) -> list[Step]:
        whole = self._sequence()
        while self._text[self._at : self._at + 1] == "|":
            self._at += 1
            other = self._sequence()
            whole = [(1, len(whole) + 2), *whole, (len(other) + 1,), *other]
        return whole

    def _sequence(self) -> list[Step]:
        whole: list[Step] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            whole += self._repeated(self._one())
            if len(whole) > MOST_STEPS:
                raise ValueError("it repeats too much: use smaller numbers in braces")
        return whole

    def _one(self) -> list[Step]:
        letter = self._text[self._at]
        if letter == "(":
            return self._group()
        if letter in "^$":
            self._at += 1
            return [letter]
        if (found := ATOM.match(self._text, self._at)) is None:
            raise ValueError(f"{self._text[self._at : self._at + 10]!r} in it cannot be read")
        self._at = found.end()
        try:
            return [re.compile(found[0], re.DOTALL).match]
        except re.error as error:
            raise ValueError(f"{found[0]!r} in it is wrong: {error.msg}") from None

    def _group(self) -> list[Step]:
        self._at += 3 if self._text.startswith("(?:", self._at) else 1
        self._depth += 1
        if self._text[self._at : self._at + 1] == "?":
            raise ValueError("'(?' in it is not supported: it may neither look ahead or behind nor set flags")
        if self._depth > DEEPEST:
            raise ValueError(f"it has more than {DEEPEST} brackets in brackets")
        whole = self._either()
        if self._text[self._at : self._at + 1] != ")":
            raise ValueError("it does not close a bracket")
        self._at, self._depth = self._at + 1, self._depth - 1
        return whole

    def _repeated(self, one: list[Step]) -> list[Step]:
        found = REPEATS.match(self._text, self._at)
        if found is None:
            return one
        self._at = found.end()
        if REPEATS.match(self._text, self._at):
            raise ValueError("it repeats what is repeated already: put that in brackets")
        if found[0][0] == "{":
            least = int(found[1])
            most = least if not found[2] else int(found[3]) if found[3] else None
        else:
            least, most = (1 if found[0][0] == "+" else 0), (1 if found[0][0] == "?" else None)
        if max(least, most or 0) > MOST_REPEATS or (most is not None and most < least):
            raise ValueError(f"{found[0]!r} in it is wrong: use numbers up to {MOST_REPEATS}, the smaller one first")
        if max(least, most or 0) * len(one) > MOST_STEPS:
            raise ValueError("it repeats too much: use smaller numbers in braces")
        if most is None:
            rest = [(1, len(one) + 2), *one, (-len(one) - 1,)]
        else:
            rest = [(1, len(one) + 1), *one] * (most - least)
        return [*one * least, *rest]
