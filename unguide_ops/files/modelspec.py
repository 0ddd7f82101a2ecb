"""Metadata of a LoRA file for other tools: Stability's modelspec, which LoRA managers show, and kohya's ss_ fields."""

from __future__ import annotations

from ..concept_lora import ConceptLoRA

BASES = {
    "SD15": ("stable-diffusion-v1", "sd_v1"),
    "SD20": ("stable-diffusion-v2", "sd_v2"),
    "SDXL": ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
    "SDXLRefiner": ("stable-diffusion-xl-v1-refiner", "sdxl_refiner_v1-0"),
    "SSD1B": ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
    "SD3": ("stable-diffusion-3", "sd3"),
    "Flux": ("flux-1-dev", "flux1"),
    "FluxSchnell": ("flux-1-schnell", "flux1"),
    "Flux2": ("flux-2", "flux2"),
    "Chroma": ("chroma", "chroma"),
    "AuraFlow": ("aura-flow", "auraflow"),
    "PixArtAlpha": ("pixart-alpha", "pixart"),
    "PixArtSigma": ("pixart-sigma", "pixart"),
    "HunyuanDiT": ("hunyuan-dit", "hunyuan_dit"),
    "Lumina2": ("lumina-2", "lumina2"),
    "ZImage": ("z-image", "z_image"),
    "QwenImage": ("qwen-image", "qwen_image"),
    "HiDream": ("hidream-i1", "hidream"),
    "WAN21_T2V": ("wan2.1", "wan"),
    "CosmosT2IPredict2": ("cosmos-predict2", "cosmos_predict2"),
}
"""The host's name of a base model -> its architecture in modelspec, its base model version in kohya's fields."""


def modelspec_fields(lora: ConceptLoRA) -> dict[str, str]:
    """The metadata that is known of a LoRA; nothing about the machine, the user, or the time."""
    training, concept = lora.training, lora.concept
    base = str(training.get("base_model", ""))
    architecture, version = BASES.get(base, ("", ""))
    rank = max((pair.rank for pair in lora.pairs.values()), default=0)
    has_size = {"width", "height"} <= training.keys()
    fields = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora" if architecture else "",
        "modelspec.title": f"UnGuide: {concept['target']}" if concept.get("target") else "",
        "modelspec.description": concept.get("target")
        and (
            f"Forgets {concept['target']!r}: use it with the UnGuide nodes for ComfyUI. Loaded as a style it draws "
            f"{concept.get('reference', 'something else')!r} in its place."
        ),
        "modelspec.resolution": f"{training['width']}x{training['height']}" if has_size else "",
        "ss_base_model_version": version,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank) if rank else "",
        "ss_network_alpha": str(rank) if rank else "",
        "ss_steps": str(training.get("iterations_done", "")),
        "ss_learning_rate": str(training.get("learning_rate", "")),
        "ss_optimizer": str(training.get("optimizer", "")),
        "ss_lr_scheduler": str(training.get("schedule", "")),
        "ss_seed": str(training.get("seed", "")),
    }
    return {name: value for name, value in fields.items() if value}
