"""w, and the blend (paper section 3.3). Pure torch."""

import torch


def blend(base: torch.Tensor, lora: torch.Tensor, w: float | torch.Tensor) -> torch.Tensor:
    """UnGuidance: `e = w * e_base + (1 - w) * e_lora`, any shape.

    w = 1 is the base, w = 0 the LoRA, w = -1 steers away (2 * lora - base), w = 2 away from the LoRA. The weights sum
    to 1 and classifier-free guidance is linear, so cond and uncond predictions may be blended apart, before guidance,
    in x0, eps, v or velocity space: the result is the same number.
    """
    return w * base + (1.0 - w) * lora
