"""Where the real host is."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
HOST = Path(os.environ.get("UNGUIDE_HOST") or REPOSITORY / ".dev" / "host")
