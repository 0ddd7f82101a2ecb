"""UnGuide: make a diffusion model forget a concept, and nothing else. Entry point for ComfyUI."""

from comfy_api.latest import ComfyExtension

from .nodes import NODES

WEB_DIRECTORY = "./web"


class UnGuideExtension(ComfyExtension):
    """Hands the host the pack's node classes."""

    async def get_node_list(self):
        """All nodes of the pack."""
        return NODES


async def comfy_entrypoint() -> UnGuideExtension:
    """Called once by the host when it loads custom nodes."""
    return UnGuideExtension()
