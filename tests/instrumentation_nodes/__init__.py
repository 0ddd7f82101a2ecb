"""A node pack without nodes: what a server holds in memory and asks of networks, and faults in it."""

import contextlib
import gc
import socket
import sys
from pathlib import Path

asked_for: list[str] = []


def note_address(event, details):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        address = details[1] if event == "socket.connect" else details[0]
        name = str(address[0] if isinstance(address, tuple) else address)
        if not name.startswith(("127.", "localhost", "::1", "0.0.0.0", "None")):  # noqa: S104 # binds nothing
            asked_for.append(name)


sys.addaudithook(note_address)
sys.path.append(str(Path(__file__).resolve().parents[1]))

import comfy.model_management  # noqa: E402
import execution  # noqa: E402
import psutil  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from aiohttp import web  # noqa: E402
from fault_injection import LAYER, Fault, inject  # noqa: E402
from server import PromptServer  # noqa: E402

NODE_CLASS_MAPPINGS: dict = {}
after_prompts: list[dict] = []
patches = pytest.MonkeyPatch()
placed: list[tuple] = []  # layers, and the forwards that a fault has placed on them
routes = PromptServer.instance.routes
execute = execution.PromptExecutor.execute


def executing(self, prompt, prompt_id, *args, **kwargs):
    """The executor's method, after which the living tensors and the memory of this process in bytes are noted."""
    try:
        return execute(self, prompt, prompt_id, *args, **kwargs)
    finally:
        gc.collect()
        tensors = sum(issubclass(type(obj), torch.Tensor) for obj in gc.get_objects())
        after_prompts.append({"prompt": prompt_id, "tensors": tensors, "resident": psutil.Process().memory_info().rss})


execution.PromptExecutor.execute = executing


@routes.get("/instrumentation/memory")
async def memory(request):
    return web.json_response(after_prompts)


@routes.get("/instrumentation/addresses")
async def addresses(request):
    """What was asked for; at last `heard.invalid`, to show that it is noted."""
    with contextlib.suppress(OSError):
        socket.getaddrinfo("heard.invalid", 80)
    return web.json_response(asked_for)


@routes.post("/instrumentation/fault")
async def set_fault(request):
    """Inject a fault {"kind", "place", "at", "after"} in place of the one before; without a place, none."""
    injection = await request.json()
    gone = [layer for layer, forward in placed if vars(layer).get("forward") is not forward]
    patches.undo()
    placed.clear()
    if gone:
        raise AssertionError(f"what another pack had placed on a layer is gone: {gone}")
    if injection["place"]:
        loaded = [it.model.model for it in comfy.model_management.current_loaded_models if it.model is not None]
        networks = [model.diffusion_model for model in loaded if hasattr(model, "diffusion_model")]
        network = networks[0] if networks else None
        inject(patches, Fault(injection["kind"], injection["at"]), injection["place"], network, injection["after"])
        if injection["place"] == "layer":
            layer = network.get_submodule(LAYER)
            placed.append((layer, layer.forward))
    return web.json_response({})
