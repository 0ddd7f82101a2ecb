"""`pins.ini`, every version the development environment uses, and the stamps of what was made from it in `.dev`."""

from __future__ import annotations

import configparser
import hashlib
from pathlib import Path

from unguide.unguide_ops.files.atomic import write_whole

PINS = Path(__file__).with_name("pins.ini")
HOME = PINS.parent.parent / ".dev"
STAMP = ".unguide-pins"


def read() -> configparser.ConfigParser:
    """The sections of `pins.ini`."""
    pins = configparser.ConfigParser()
    pins.read(PINS, encoding="utf-8")
    return pins


def fingerprint() -> str:
    """The hash of `pins.ini`, whatever its line ends: what a stamp holds."""
    return hashlib.sha256(PINS.read_text(encoding="utf-8").encode()).hexdigest()


def stamped(folder: Path, text: str, part: str = "") -> bool:
    """Whether the stamp of `folder`, or of a part of its contents, holds `text`."""
    stamp = folder / (STAMP + part)
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == text


def write_stamp(folder: Path, text: str, part: str = "") -> None:
    """Mark `folder`, or a part of its contents, as finished."""
    write_whole(folder / (STAMP + part), text.encode())
