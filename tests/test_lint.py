"""The checks every commit passes: linter, formatter, type checker."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from real_host import HOST, REPOSITORY


def complaints(check, folder):
    """What Python's `-m check`, run there, prints if it fails; nothing if it passes."""
    command = [sys.executable, "-m", *check.split()]
    environment = {**os.environ, "UNGUIDE_HOST": str(HOST)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=250)
    return f"exit code {done.returncode}: {done.stdout}{done.stderr}" if done.returncode else ""


@pytest.mark.parametrize("check", ["ruff check", "ruff format --check", "mypy"])
def test_the_sources_pass(check):
    assert not complaints(check, REPOSITORY)


def test_packages_import_only_what_lies_below_them(tmp_path):
    """The contracts are in pyproject.toml. import-linter wants the package under its name, whatever its folder is."""
    (tmp_path / "unguide").symlink_to(REPOSITORY, target_is_directory=True)
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--config", str(REPOSITORY / "pyproject.toml"), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250)
    assert not done.returncode and "3 kept, 0 broken" in done.stdout, done.stdout + done.stderr


# as README says, as GitHub's archives unpack, as the tools' package, and as what the sources import is called
@pytest.mark.parametrize("name", ["unguide", "unguide-1.0.0", "dev", "torch"])
def test_a_clone_may_have_any_name(tmp_path, name):
    clone = tmp_path / name
    shutil.copytree(REPOSITORY, clone, ignore=shutil.ignore_patterns(".*", "output"))
    assert not complaints("ruff check", clone) + complaints("pytest tests/pure/test_equations.py", clone)


def test_what_is_promised_is_held_by_tests_that_exist():
    page = (REPOSITORY / "docs" / "promises.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", page))
    assert len(named) > 8 and not [it for it in named if not (REPOSITORY / it).is_file()]
