"""Run a ComfyUI's main.py in this process, and end with the process that started it, however that one ended.

Used by server.py as `python launch.py .../main.py ARGUMENTS`, with a pipe as stdin that is never written to.
"""

import os
import runpy
import signal
import sys
import threading


def end_with_parent() -> None:
    """Wait for the pipe to close, which happens even if the parent is killed, and end the whole process group."""
    os.read(sys.stdin.fileno(), 1)
    if os.name == "posix":
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    del sys.argv[0]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
