"""`python dev serve`: ComfyUI with the pack, until Ctrl-C."""

from __future__ import annotations

import argparse

from dev.console import DevError, say
from dev.environment import BASE
from dev.server import HostServer

EXTRA = "ComfyUI's main.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `serve`."""
    parser.add_argument("--port", type=int, default=8188, help="port to serve on, 0 for any free one (default: 8188)")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="where models run (default: cpu)")


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C; DevError if the host ends by itself."""
    say("Starting ComfyUI ...")
    with HostServer(options.host, BASE, port=options.port, device=options.device, args=options.extra) as server:
        server.require_nodes(["UnGuidance"])
        say(f"\nComfyUI with the UnGuide nodes: {server.url}\nStop it with Ctrl-C. Its log: {server.log}\n")
        try:
            code = server.wait()
        except KeyboardInterrupt:
            say("\nStopping ...")
            return 0
        raise DevError(f"ComfyUI ended with exit code {code}: see {server.log}.")
