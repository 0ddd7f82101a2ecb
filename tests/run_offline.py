"""Runs every node of the pack through a server; prints what ran and which addresses were asked for, as JSON.

Run as `unshare --net --map-root-user python run_offline.py BASE`: in a Linux namespace that has a loopback only.
"""

import fcntl
import json
import socket
import struct
import sys
from pathlib import Path

from restarting_server import RestartingServer

from dev.client import run_graph
from dev.workflows import CAT_FILE, read_api

SIOCSIFFLAGS, UP = 0x8914, 0x1
LEAST = {"iterations": 10, "steps": 2, "captions": 12, "limit": 1, "grid_steps": 1}

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:  # in a new namespace even the loopback is off
    fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", UP))
ran: set[str] = set()
with RestartingServer(Path(sys.argv[1])) as server:
    for name in ("forget-the-cat", "import-a-lora", "batch-from-a-list", "two-concepts", "redraw-a-picture"):
        graph = read_api(name)
        for node in graph.values():
            if node["class_type"] == "UnGuideTrainLoRA":
                node["inputs"] |= {"preset": "custom", "iterations": 0}
            if node["class_type"].startswith(("UnGuid", "KSampler")):
                node["inputs"] |= {name: least for name, least in LEAST.items() if name in node["inputs"]}
        run_graph(server.url, graph)
        ran |= {node["class_type"] for node in graph.values()}
    saved = (server.loras / CAT_FILE).is_file()
    sys.stdout.write(json.dumps({"ran": sorted(ran), "saved": saved, "asked_for": server.asked_for()}) + "\n")
