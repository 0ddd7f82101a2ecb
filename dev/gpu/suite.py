"""The part that runs the tests that need nothing but a host in their own process, on the device."""

from __future__ import annotations

import importlib.util
import os
import time

import pytest

from dev import ROOT
from dev.gpu.child import Reporter, Request

LEFT_OUT = {
    "test_archive": "it builds and installs",
    "test_browser": "it needs a browser",
    "test_card": "it needs open_clip",
    "test_checkpoints": "it needs a server",
    "test_dev": "it needs the development environment",
    "test_diffusers": "it needs diffusers",
    "test_faults": "some of it needs a server",
    "test_fuzz": "it forks, which a GPU does not survive",
    "test_gpu": "it is about this command",
    "test_help": "no model runs in it",
    "test_lint": "it needs linters, and no device",
    "test_load": "it needs a server",
    "test_locales": "no model runs in it",
    "test_metrics": "it needs open_clip, torchmetrics and NudeNet",
    "test_offline": "it needs a server",
    "test_other_device": "it acts the device that is there",
    "test_recipe": "no model runs in it",
    "test_server": "it needs a server",
    "test_sweep": "it needs a server and Ray",
    "test_untrusted_files": "it forks, which a GPU does not survive",
    "test_workflows": "it needs a server",
}
"""Test files that are not run, and why; all others are."""
HANDFUL = ("tests/test_unguidance.py::test_w_1_gives_the_plain_base_picture_bit_for_bit",
           "tests/test_unguidance.py::test_evaluations_are_counted_and_only_the_needed_are_made",
           "tests/pure/test_equations.py::test_h0_of_the_published_average")  # fmt: skip
PROCESSES = 12  # at most: each has a context of its own on the GPU
MESSAGE = 300  # characters of a failure's message
PAUSE = 0.5  # seconds between two reports


class Tally:
    """A pytest plugin that reports how many tests have passed, and which have failed and how, while they run."""

    def __init__(self, report: Reporter):
        self.passed, self.skipped = 0, 0
        self.failed: dict[str, str] = {}
        self._report, self._reported_at = report, 0.0

    def pytest_runtest_logreport(self, report) -> None:
        """A hook of pytest: called for each phase of a test."""
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.failed.setdefault(report.nodeid, (crash.message if crash else str(report.longrepr))[:MESSAGE])
        elif report.skipped:
            self.skipped += 1
        elif report.when == "call":
            self.passed += 1
        if report.failed or time.monotonic() - self._reported_at > PAUSE:
            self.report()

    def report(self, **values) -> None:
        """Report the numbers so far, and further values."""
        self._reported_at, figures = time.monotonic(), {"suite_failed": len(self.failed)}
        self._report(figures=figures, passed=self.passed, skipped=self.skipped, failed=self.failed, **values)


def files_to_run() -> list[str]:
    """The files of the tests that are run."""
    return sorted(str(path) for path in (ROOT / "tests").glob("test_*.py") if path.stem not in LEFT_OUT)


def measure(request: Request, report: Reporter) -> None:
    """Run the tests on several cores at once; in small a handful."""
    report(left_out={} if request.small else LEFT_OUT)
    tests = HANDFUL if request.small else files_to_run()
    processes = 1 if request.small else min(os.cpu_count() or 1, PROCESSES)
    parallel = processes > 1 and importlib.util.find_spec("xdist")
    options = ["-n", str(processes), "--dist", "worksteal"] if parallel else []
    tally = Tally(report)
    code = pytest.main(
        ["-p", "no:cacheprovider", "-p", "dev.gpu.without_a_server", "--tb=short", *options, *tests], plugins=[tally]
    )
    tally.report(complete=int(code) in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED))
    if not tally.passed:
        raise SystemExit(f"no test has passed (pytest's exit code: {int(code)})")
