"""`pins.ini`, every version the development environment uses, and the stamps of what was made from it in `.dev`."""

from __future__ import annotations

import configparser
import hashlib
from pathlib import Path

PINS = Path(__file__).with_name("pins.ini")
HOME = PINS.parent.parent / ".dev"
STAMP = ".unguide-pins"


def read() -> configparser.ConfigParser:
    """`pins.ini`."""
    pins = configparser.ConfigParser()
    pins.read(PINS, encoding="utf-8")
    return pins


def fingerprint() -> str:
    """What a stamp holds: the hash of `pins.ini`, whatever its line ends."""
    return hashlib.sha256(PINS.read_text(encoding="utf-8").encode()).hexdigest()


def stamped(folder: Path, text: str, part: str = "") -> bool:
    """Whether the stamp of `folder`, or of a part of what is in it, holds `text`."""
    stamp = folder / (STAMP + part)
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == text


def write_stamp(folder: Path, text: str, part: str = "") -> None:
    """Mark `folder`, or a part of what is in it, as finished."""
    unfinished = folder / (STAMP + ".part")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(folder / (STAMP + part))
