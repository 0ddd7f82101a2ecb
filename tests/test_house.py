"""The checks every commit passes: linter, formatter, type checker."""

import subprocess
import sys

import pytest
from real_host import REPOSITORY


@pytest.mark.parametrize("check", ["ruff check", "ruff format --check", "mypy"])
def test_the_sources_pass(check):
    command = [sys.executable, "-m", *check.split()]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
