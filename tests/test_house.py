"""The checks every commit passes: linter, formatter, type checker."""

import re
import subprocess
import sys

import pytest
from real_host import REPOSITORY


@pytest.mark.parametrize("check", ["ruff check", "ruff format --check", "mypy"])
def test_the_sources_pass(check):
    command = [sys.executable, "-m", *check.split()]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_promised_is_held_by_tests_that_exist():
    page = (REPOSITORY / "docs" / "promises.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/\w+\.py)`", page))
    assert len(named) > 8 and not [it for it in named if not (REPOSITORY / it).is_file()]
