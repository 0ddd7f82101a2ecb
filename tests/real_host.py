"""Where the real host is, and whether tests run without one."""

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent

sys.path.append(str(REPOSITORY))
from dev.hosts import HOST  # noqa: E402, F401 - for all tests
from dev.test import PURE_VARIABLE  # noqa: E402

PURE = PURE_VARIABLE in os.environ  # only the tests in tests/pure
