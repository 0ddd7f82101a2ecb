"""How near two computations of the same numbers must come to each other, by the precision that they are made in.

The tests compute in full single precision on every device. On a GPU torch would run convolutions in TF32 (a mantissa of
10 bits), with which two copies of a model agree to 3e-3 to 1e-2 only, and the host would compute what a LoRA changes in
half precision; that says nothing about either of them.
"""

import torch

CLOSE = 1e-4  # of the largest value: fp32, after some steps of a sampler
ADAPTIVE = 1e-2  # the same with a sampler that chooses its steps by its own error: rounding moves them


def compute_in_full_precision():
    """Switch TF32 off in this process, and half precision in the host's patches; on a CPU neither is there."""
    import comfy.model_management  # the host is started after this module is imported

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    comfy.model_management.lora_compute_dtype = lambda device: torch.float32
