"""A ComfyUI server that is started as a subprocess, waited for, and stopped reliably; and plain HTTP requests to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dev import hosts
from dev.console import DevError
from dev.device import CPU, chosen

LAUNCHER = Path(__file__).with_name("launch.py")
ADDRESS = "127.0.0.1"
PORT_TAKEN = ("address already in use", "Errno 98", "Errno 48", "WinError 10048")
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach this machine


class PortTakenError(DevError):
    """Another program listens on the port."""

    def __init__(self, port: int) -> None:
        super().__init__(
            f"port {port} is taken by another program: stop that, or choose another port (0: any free one)."
        )


class HostServer:
    """ComfyUI in `host`, with its data in `base`, on `port` (0: any free one), as a context manager.

    `device` is `cpu` or `gpu`, by default the chosen one (dev/device.py); `args` are further arguments of main.py;
    `python` has the host's packages. The output goes to `log`, by default `base`/host.log. `url` is valid inside the
    context.
    """

    def __init__(
        self, host: Path | str, base: Path | str, *, port: int = 0, device: str | None = None, args: Sequence[str] = (),
        python: str = sys.executable, log: Path | None = None, timeout: float = 120
    ) -> None:  # fmt: skip
        """Only remembers the settings: `with` starts the host."""
        self.host, self.base, self.args, self.python = Path(host).resolve(), Path(base).resolve(), args, python
        self.fixed_port, self.device, self.timeout = port, device or chosen(), timeout
        self.log = log or self.base / "host.log"
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The server's address, without a slash at the end."""
        return f"http://{ADDRESS}:{self.port}"

    def __enter__(self) -> HostServer:
        """Start the host and wait until it answers; DevError if it does not."""
        if not (self.host / "main.py").is_file():
            raise DevError(f"{self.host} is not a ComfyUI folder: name the one that holds its main.py.")
        for attempt in range(3):
            self.port = self.fixed_port or free_port()
            try:
                check_port(self.port)
                self._start()
                self._wait_until_ready()
                return self
            except BaseException as error:
                self.stop()
                if not isinstance(error, PortTakenError) or self.fixed_port or attempt == 2:
                    raise  # else another program was faster to take the free port: try the next one
        raise AssertionError("unreachable")

    def __exit__(self, *_: object) -> None:
        """Stop the host."""
        self.stop()

    def _start(self) -> None:
        fixed = ["--base-directory", str(self.base), "--port", str(self.port), "--disable-auto-launch",
                 "--database-url", f"sqlite:///{self.base.as_posix()}/user/comfyui.db"]  # fmt: skip
        on_cpu = ["--cpu"] if self.device == CPU else []
        command = [self.python, str(LAUNCHER), str(self.host / "main.py"), *fixed, *on_cpu, *self.args]
        dropped = ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy", "pythonpath")
        env = {name: value for name, value in os.environ.items() if name.lower() not in dropped}
        env.update(PYTHONUNBUFFERED="1", PYTHONIOENCODING="utf-8", PYTHONPATH=str(hosts.at(self.host).front_end.folder))
        new_group: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            new_group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=self.base, env=env, **new_group
            )

    def _wait_until_ready(self) -> None:
        began = time.monotonic()
        while time.monotonic() - began < self.timeout:
            if self.process is None or self.process.poll() is not None:
                tail = self.log_tail()
                if any(sign.lower() in tail.lower() for sign in PORT_TAKEN):
                    raise PortTakenError(self.port)
                raise DevError(f"ComfyUI ended while starting; the end of {self.log}:\n{tail}")
            with contextlib.suppress(OSError, ValueError):
                stats = json.loads(request(f"{self.url}/system_stats", timeout=5))
                if str(self.base) not in stats["system"]["argv"]:
                    raise PortTakenError(self.port)
                return
            time.sleep(0.2)
        raise DevError(f"ComfyUI did not answer within {self.timeout:.0f} s; the end of {self.log}:\n{self.log_tail()}")

    def schemas(self) -> dict[str, dict]:
        """Inputs, outputs and texts of each node that the host offers, by its id."""
        return json.loads(request(f"{self.url}/object_info"))

    def require_nodes(self, ids: Iterable[str]) -> None:
        """DevError, with the log's lines on failed imports, unless the host offers all these node ids."""
        schemas = self.schemas()
        if missing := [name for name in ids if name not in schemas]:
            raise DevError(f"ComfyUI lacks {', '.join(missing)}; its log says:\n{self._import_errors()}")

    def _import_errors(self) -> str:
        traceback: list[str] = []
        for line in self.log_tail(10_000).splitlines():
            traceback = [line] if line.startswith("Traceback") else [*traceback, line]
            if line.startswith("Cannot import") and "custom_nodes" in line:
                return "\n".join(traceback)
        return "nothing about it"

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of the host's output."""
        if not self.log.is_file():
            return ""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def wait(self) -> int:
        """Wait for the host to end by itself; returns its exit code."""
        if self.process is None:
            raise DevError("the host is not running: use HostServer in a `with` statement.")
        return self.process.wait()

    def stop(self) -> None:
        """End the host and whatever it started; does nothing if it does not run."""
        process, self.process = self.process, None
        if process is None:
            return
        try:
            signal_group(process, force=False)
            process.wait(10)
        except BaseException as error:
            signal_group(process, force=True)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
        finally:
            if process.stdin:
                process.stdin.close()


def signal_group(process: subprocess.Popen[bytes], force: bool) -> None:
    """Tell a process and its children to end, or force them to."""
    if process.poll() is not None:
        return
    if sys.platform == "win32":
        tree = ["taskkill", "/T", "/F", "/PID", str(process.pid)]  # without a console, only force works
        subprocess.run(tree, capture_output=True, check=False)
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL if force else signal.SIGTERM)


def request(url: str, payload: object = None, timeout: float = 60) -> bytes:
    """GET `url`, or POST `payload` to it as JSON; returns the body. OSError if the host does not answer."""
    data = None if payload is None else json.dumps(payload).encode()
    message = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    with _opener.open(message, timeout=timeout) as answer:
        return answer.read()


def check_port(port: int) -> None:
    """PortTakenError if something listens on `port`, DevError if it is not a port that may be used."""
    with socket.socket() as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free, too
        try:
            probe.bind((ADDRESS, port))
        except PermissionError:
            raise DevError(f"port {port} needs special rights: choose one above 1023 with --port.") from None
        except OverflowError:
            raise DevError(f"{port} is not a port: choose one from 1024 to 65535, or 0 for any free one.") from None
        except OSError:
            raise PortTakenError(port) from None


def free_port() -> int:
    """A port that no program listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return probe.getsockname()[1]
