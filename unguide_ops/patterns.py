"""Regular expressions from users, matched without backtracking in time proportional to pattern length x text length.

Python's own engine backtracks: with `(a+)+b` a short text can take it years, and nothing can interrupt it. `Pattern`
compiles to a nondeterministic finite automaton and follows all its states at once, character by character (Thompson
1968). What such an automaton cannot match is refused: references to groups, and looking ahead or behind.
"""

from __future__ import annotations

import re
from collections.abc import Callable

LONGEST = 500  # characters of a pattern
MOST_STEPS = 2000  # of a program, in which `{m,n}` repeats steps
MOST_REPEATS = 100
DEEPEST = 50  # nested brackets
MOST_WAYS = 5_000_000  # states followed by one pattern in all its texts: a few seconds
ATOM = re.compile(r"\\[dDsSwW]|\\[^A-Za-z0-9]|\[\^?\]?(?:\\.|[^\]\\])*\]|[^\\\[\]()|*+?{}^$]")
REPEATS = re.compile(r"(?:[*+?]|\{(\d{1,3})(,?)(\d{0,3})\})\??")

Step = Callable[[str], object] | tuple[int, ...] | str
"""A step of a program: a test of one character, jumps relative to the step, or a position required, `^` or `$`."""


class Pattern:
    """A regular expression of characters, `.`, `[...]`, `\\d`, `\\w`, `\\s`, `( )`, `|`, `* + ? {m,n}`, `^` and `$`."""

    def __init__(self, text: str):
        """Raises ValueError with a clause that says what is wrong, for anything else and for too long a pattern."""
        if len(text) > LONGEST:
            raise ValueError(f"it is {len(text)} characters long: use at most {LONGEST}")
        self._text, self._position, self._depth, self._followed = text, 0, 0, 0
        self._program = self._alternation()
        if self._position < len(text):
            raise ValueError("it closes a bracket that it never opens")

    def is_in(self, text: str) -> bool:
        """Whether the pattern matches anywhere in the text.

        Raises ValueError with a clause that says so when its texts together take too much work.
        """
        states: set[int] = set()  # indices of the steps that come next
        for position in range(len(text) + 1):
            states = self._closure({0, *states}, position == 0, position == len(text))
            self._followed += len(states)
            if self._followed > MOST_WAYS:
                raise ValueError("there are too many ways to match it: make it plainer")
            if len(self._program) in states:
                return True
            character = text[position : position + 1]
            steps = ((state, self._program[state]) for state in states)
            states = {state + 1 for state, step in steps if callable(step) and character and step(character)}
        return False

    def _closure(self, states: set[int], at_start: bool, at_end: bool) -> set[int]:
        """The states, and all that they lead to without another character."""
        closure, queue = set(states), list(states)
        while queue:
            state = queue.pop()
            step = self._program[state] if state < len(self._program) else ()
            if isinstance(step, str):
                step = (1,) if (at_start if step == "^" else at_end) else ()
            new = {state + jump for jump in step} - closure if isinstance(step, tuple) else set()
            closure |= new
            queue += new
        return closure

    def _alternation(self) -> list[Step]:
        steps = self._concatenation()
        while self._text[self._position : self._position + 1] == "|":
            self._position += 1
            alternative = self._concatenation()
            steps = [(1, len(steps) + 2), *steps, (len(alternative) + 1,), *alternative]
        return steps

    def _concatenation(self) -> list[Step]:
        steps: list[Step] = []
        while self._position < len(self._text) and self._text[self._position] not in "|)":
            steps += self._repetition(self._atom())
            if len(steps) > MOST_STEPS:
                raise ValueError("it repeats too much: use smaller numbers in braces")
        return steps

    def _atom(self) -> list[Step]:
        character = self._text[self._position]
        if character == "(":
            return self._group()
        if character in "^$":
            self._position += 1
            return [character]
        if (atom := ATOM.match(self._text, self._position)) is None:
            raise ValueError(f"{self._text[self._position : self._position + 10]!r} in it cannot be read")
        self._position = atom.end()
        try:
            return [re.compile(atom[0], re.DOTALL).match]
        except re.error as error:
            raise ValueError(f"{atom[0]!r} in it is wrong: {error.msg}") from None

    def _group(self) -> list[Step]:
        self._position += 3 if self._text.startswith("(?:", self._position) else 1
        self._depth += 1
        if self._text[self._position : self._position + 1] == "?":
            raise ValueError("'(?' in it is not supported: it may neither look ahead or behind nor set flags")
        if self._depth > DEEPEST:
            raise ValueError(f"it has more than {DEEPEST} brackets in brackets")
        steps = self._alternation()
        if self._text[self._position : self._position + 1] != ")":
            raise ValueError("it does not close a bracket")
        self._position, self._depth = self._position + 1, self._depth - 1
        return steps

    def _repetition(self, atom: list[Step]) -> list[Step]:
        repeats = REPEATS.match(self._text, self._position)
        if repeats is None:
            return atom
        self._position = repeats.end()
        if REPEATS.match(self._text, self._position):
            raise ValueError("it repeats what is repeated already: put that in brackets")
        if repeats[0][0] == "{":
            least = int(repeats[1])
            most = least if not repeats[2] else int(repeats[3]) if repeats[3] else None
        else:
            least, most = (1 if repeats[0][0] == "+" else 0), (1 if repeats[0][0] == "?" else None)
        if max(least, most or 0) > MOST_REPEATS or (most is not None and most < least):
            raise ValueError(f"{repeats[0]!r} in it is wrong: use numbers up to {MOST_REPEATS}, the smaller one first")
        if max(least, most or 0) * len(atom) > MOST_STEPS:
            raise ValueError("it repeats too much: use smaller numbers in braces")
        if most is None:
            optional: list[Step] = [(1, len(atom) + 2), *atom, (-len(atom) - 1,)]
        else:
            optional = [(1, len(atom) + 1), *atom] * (most - least)
        return [*atom * least, *optional]
