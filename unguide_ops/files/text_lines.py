"""Read the lines of a UTF-8 file that may be of any size and content, in bounded memory."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import BinaryIO

LONGEST_LINE = 1_000_000  # bytes; of a row as well, on however many lines


class TextLines(Iterator[str]):
    """The lines of an open UTF-8 file, with or without a byte order mark.

    A line that cannot be read is replaced by an empty or repaired one, and `take_fault` says what was wrong.
    """

    def __init__(self, file: BinaryIO):
        self._file, self._fault = file, ""
        self._row_bytes = 0
        if file.read(3) != b"\xef\xbb\xbf":
            file.seek(0)

    def begin_row(self) -> None:
        """Say that the next line begins a row: the lines of one row have a limit together."""
        self._row_bytes = 0

    def take_fault(self) -> str:
        """What was wrong with the lines since the last call, as a predicate; "" if nothing was."""
        fault, self._fault = self._fault, ""
        return fault

    def __next__(self) -> str:
        """Raises csv.Error for a row that is too long: on many lines, each with a quote that ends on the next."""
        line = self._file.readline(LONGEST_LINE + 1)
        if not line:
            raise StopIteration
        if len(line) > LONGEST_LINE:
            self._fault = f"is longer than {LONGEST_LINE} bytes"
            while line and not line.endswith(b"\n"):
                line = self._file.readline(LONGEST_LINE)
            return "\n"
        self._row_bytes += len(line)
        if self._row_bytes > LONGEST_LINE:
            raise csv.Error(f"is longer than {LONGEST_LINE} bytes")
        if b"\0" in line:
            self._fault = "holds a NUL character: take it out"
            return "\n"
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError:
            self._fault = "is not UTF-8: save the file as 'CSV UTF-8'"
            return line.decode("utf-8", errors="replace")
