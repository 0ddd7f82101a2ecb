"""The pack's whole job where there is no network: in a Linux namespace whose only interface is its own loopback.

Run as `unshare --net --map-root-user python -m dev.reliability.offline HOST BASE`; prints what was asked for, as JSON.
"""

from __future__ import annotations

import fcntl
import json
import socket
import struct
import sys
from pathlib import Path

from dev.client import Graph, run_graph
from dev.environment import make_base
from dev.server import HostServer
from dev.workflows.shipped import CAT_FILE, drawn

SIOCSIFFLAGS, UP = 0x8914, 0x1
LISTENER = """
import json, socket, sys
from pathlib import Path

LOG = Path(__file__).with_name("asked.jsonl")
LOCAL = ("127.", "localhost", "::1", "0.0.0.0")

def hear(event, details):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        address = details[1] if event == "socket.connect" else details[0]
        name = address[0] if isinstance(address, tuple) else address
        if isinstance(name, (str, bytes)) and not str(name).startswith(LOCAL):
            with LOG.open("a") as log:
                log.write(json.dumps(str(name)) + "\\n")

sys.addaudithook(hear)
try:
    socket.getaddrinfo("heard.invalid", 80)  # to show that it hears
except OSError:
    pass
NODE_CLASS_MAPPINGS = {}
"""
"""A node pack without nodes that writes down every address that something in the server asks for."""


def listen(base: Path) -> Path:
    """Put the listener into a ComfyUI base; returns the file that it writes."""
    folder = base / "custom_nodes" / "a-listener"  # loaded before the pack
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(LISTENER, encoding="utf-8")
    return folder / "asked.jsonl"


def asked_for(log: Path) -> list[str]:
    """What the listener wrote."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


def raise_loopback() -> None:
    """In a new network namespace even that is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", UP))


def short(graph: Graph) -> Graph:
    """The same nodes, as little work as they can do."""
    for it in graph.values():
        if it["class_type"] == "UnGuideTrainLoRA":
            it["inputs"] |= {"preset": "custom", "iterations": 10}
        for name, least in {"steps": 2, "captions": 12, "limit": 1, "grid_steps": 1}.items():
            if it["class_type"].startswith(("UnGuidance", "KSampler", "UnGuide")) and name in it["inputs"]:
                it["inputs"][name] = least
    return graph


def run(host: Path, base: Path) -> dict:
    """Every node of the pack, through the server; which classes ran, and what was asked for meanwhile."""
    log = listen(base)
    ran = set()
    with HostServer(host, make_base(base)) as server:
        schemas = server.schemas()
        for name in ("forget-the-cat", "import-a-lora", "batch-from-a-list", "two-concepts", "redraw-a-picture"):
            graph = short(drawn(name, schemas).api())
            run_graph(server.url, graph)
            ran |= {it["class_type"] for it in graph.values()}
    return {"ran": sorted(ran), "kept": (base / "models" / "loras" / CAT_FILE).is_file(), "asked_for": asked_for(log)}


if __name__ == "__main__":
    raise_loopback()
    sys.stdout.write(json.dumps(run(Path(sys.argv[1]), Path(sys.argv[2]))) + "\n")
