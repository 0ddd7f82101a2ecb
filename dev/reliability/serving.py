"""A server to do things to: with the pack, a LoRA, and a view of its inside."""

from __future__ import annotations

import json
from pathlib import Path

from dev.environment import make_base
from dev.reliability.graphs import LORA
from dev.server import HostServer, request

INSIDE = Path(__file__).with_name("inside")


def server_of(host: Path, base: Path, lora: Path) -> HostServer:
    """A server with `base` for its data, made if need be; `lora` is in its loras folder."""
    make_base(base)
    link = base / "custom_nodes" / "reliability"
    if not link.is_symlink():
        link.symlink_to(INSIDE, target_is_directory=True)
    loras = base / "models" / "loras"
    loras.mkdir(parents=True, exist_ok=True)
    (loras / LORA).write_bytes(lora.read_bytes())
    return HostServer(host, base)


def held_after_prompts(url: str) -> list[dict]:
    """What the server held behind each prompt: {"prompt", "tensors", "resident"}."""
    found: list[dict] = json.loads(request(f"{url}/reliability/memory"))
    return found


def set_trap(url: str, fault: str, place: str, at: int = 1, after: str = "") -> None:
    """A trap in the server (see `traps`); without a place none."""
    request(f"{url}/reliability/trap", {"fault": fault, "place": place, "at": at, "after": after})
