"""A custom node without nodes: what only the server's own process can tell of its memory, and traps in it."""

import gc
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3]))

import comfy.model_management  # noqa: E402
import execution  # noqa: E402
import psutil  # noqa: E402
import torch  # noqa: E402
from aiohttp import web  # noqa: E402
from server import PromptServer  # noqa: E402

from dev.reliability import traps  # noqa: E402

NODE_CLASS_MAPPINGS: dict = {}
after_prompts: list[dict] = []  # what was there behind each prompt
trap_set = ExitStack()
routes = PromptServer.instance.routes


def held() -> dict:
    """Living tensors, and the memory of this process in bytes."""
    gc.collect()
    tensors = sum(issubclass(type(it), torch.Tensor) for it in gc.get_objects())
    return {"tensors": tensors, "resident": psutil.Process().memory_info().rss}


def and_look(execute):
    """The executor's method, after which is noted what is held."""

    def executing(self, prompt, prompt_id, *args, **kwargs):
        try:
            return execute(self, prompt, prompt_id, *args, **kwargs)
        finally:
            after_prompts.append({"prompt": prompt_id, **held()})

    return executing


execution.PromptExecutor.execute = and_look(execution.PromptExecutor.execute)


@routes.get("/reliability/memory")
async def memory(request):
    """What was held behind each prompt."""
    return web.json_response(after_prompts)


@routes.post("/reliability/trap")
async def set_trap(request):
    """Set a trap {"place", "at", "after", "fault"} in place of the one before; without a place none."""
    asked = await request.json()
    trap_set.close()
    if asked.get("place"):
        loaded = [it.model.model for it in comfy.model_management.current_loaded_models if it.model is not None]
        networks = [it.diffusion_model for it in loaded if hasattr(it, "diffusion_model")]
        trap = traps.Trap(asked["fault"], asked["at"])
        trap_set.enter_context(traps.set_at(asked["place"], trap, networks[0] if networks else None))
        trap_set.enter_context(traps.armed_in(asked["after"], trap))
    return web.json_response({})
