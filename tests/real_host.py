"""Where the real host is."""

import sys
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent

sys.path.append(str(REPOSITORY))
from dev.hosts import HOST  # noqa: E402, F401 - for all tests
