"""What all tests share; those that need a host get it from host_fixtures.py."""

import os
import sys
from pathlib import Path

import hypothesis
import pytest
import torch

# tiny models: more threads wait for each other, and results round by their number; for servers and sweeps as well
os.environ["OMP_NUM_THREADS"] = "1"

sys.path.insert(0, str(Path(__file__).parent))  # the tests' own helpers
from figures import record_figure  # noqa: E402, F401 - a fixture of all tests
from real_host import PURE  # noqa: E402

# no test with a clock: a slow machine is no fault; and a test may use one folder for all examples
unneeded = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture]
hypothesis.settings.register_profile("ours", deadline=None, suppress_health_check=unneeded)
hypothesis.settings.load_profile("ours")

pytest_plugins = [] if PURE else ["host_fixtures"]


@pytest.fixture(autouse=True)
def as_in_a_node():
    """The host runs every node in inference mode."""
    with torch.inference_mode():
        yield
