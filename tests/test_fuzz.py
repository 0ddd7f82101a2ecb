"""Good files with changes: a parser takes each or says in one sentence why not, and nothing else ever happens."""

import os
import time
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from untrusted_files import parsers
from untrusted_files.mutations import changed_files
from untrusted_files.sandbox import limit_resources, needs_fork, run_in_child

SECONDS = 2  # of the processor that a file may take
LONGEST = 1000  # characters of an error
FEW, MANY = 300, 30_000
pytestmark = needs_fork


def open_changed_files(parser, examples, path):
    """How many of so many changed files were refused and accepted; `error` and `message` if one ended otherwise."""
    limit_resources()
    counts = Counter()

    @settings(max_examples=examples, derandomize=examples == FEW, database=None, report_multiple_bugs=False,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(changed_files(parser))
    def open_changed_file(changed):
        name, content = changed
        for file in path.iterdir():  # only the last one is there when all has ended
            file.unlink()
        file = path / name
        file.write_bytes(content)
        start = time.process_time()
        try:
            parsers.PARSERS[parser](file)
            counts["accepted"] += 1
        except ValueError as error:
            counts["refused"] += 1
            assert type(error) is ValueError and name in str(error) and len(str(error)) < LONGEST, repr(error)
        assert time.process_time() - start < SECONDS

    try:
        open_changed_file()
    except BaseException as error:  # libraries in other languages raise such
        return {"error": type(error).__name__, "message": repr(error)}
    return dict(counts)


def fuzz(parser, examples, folder):
    """The counts of `open_changed_files` in a child; AssertionError with the file that went wrong."""
    outcome = run_in_child(open_changed_files, parser, examples, folder, timeout=60 + examples / 10)
    if "error" in outcome:
        (file,) = folder.iterdir()  # the shortest that Hypothesis has found, or that at which the child ended
        pytest.fail(f"{outcome['error']}: {outcome['message']}, from {file.name}: {file.read_bytes()!r}")
    return outcome


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("examples", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("parser", parsers.FILES)
def test_good_files_with_changes_are_taken_or_refused(tmp_path, record_figure, parser, examples):
    record_figure("fuzz", cases=1)
    start = time.monotonic()
    counts = fuzz(parser, examples, tmp_path)
    assert counts["accepted"] and counts["refused"]
    minutes = (time.monotonic() - start) / 60
    record_figure("fuzz", passed=1, fuzz_minutes=minutes, fuzz_inputs=sum(counts.values()))


@pytest.mark.parametrize(
    ("parser", "message"), [(lambda path: {}[path], "KeyError"), (lambda path: os._exit(3), "exit code 3")]
)
def test_what_fuzzing_finds_is_told_with_its_file(monkeypatch, tmp_path, parser, message):
    run_in_child(dict)  # opens good files with the parsers as they are
    monkeypatch.setitem(parsers.PARSERS, "concept", parser)
    with pytest.raises(pytest.fail.Exception, match=f"{message}.*concept.json: b'"):
        fuzz("concept", FEW, tmp_path)
