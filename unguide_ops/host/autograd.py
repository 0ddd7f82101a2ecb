"""What training needs of a loaded model: that gradients pass through it. Everything is put back afterwards."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import torch

from ..forwards import wrapped


@contextmanager
def differentiable(guider, model_options: dict, repeatable: bool) -> Iterator[None]:
    """Gradients may pass through a guider's loaded model while this lasts; its own weights stay fixed.

    The host loads, moves and patches models in its own mode, inference mode, and so do we until here: only the
    training itself leaves it. `repeatable`: with kernels that give the same result each time (see `_repeatable`).
    """
    model, conds = guider.inner_model, guider.conds
    options = model_options["transformer_options"]
    before = options.get("optimized_attention_override")
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_weights_for_autograd(model))
        stack.enter_context(_norms_that_keep_their_input(model.diffusion_model))
        stack.enter_context(_kernels_with_gradients())
        stack.enter_context(_repeatable(repeatable))
        guider.conds = for_autograd(conds)
        options["optimized_attention_override"] = _torch_attention
        try:
            yield
        finally:
            guider.conds, options["optimized_attention_override"] = conds, before


def for_autograd(it):
    """A copy of tensors in any nest of lists, tuples, dicts and the host's conds, which autograd takes.

    Autograd refuses a tensor that was made in inference mode ("Inference tensors cannot be saved for backward"), one
    made there and moved outside ("... do not track version counter"), and one made outside and moved there. A move
    (`Module.to`) swaps a parameter's data and leaves a mixture of both, so what a tensor says of itself
    (`is_inference`) is no guide: all are made anew, on the memory that they have.
    """
    if isinstance(it, torch.Tensor):
        return _on_the_same_memory(it)
    if isinstance(it, dict):
        return {key: for_autograd(value) for key, value in it.items()}
    if isinstance(it, list | tuple):
        return type(it)(for_autograd(value) for value in it)
    if hasattr(it, "process_cond"):  # one of comfy.conds
        plain = copy.copy(it)
        plain.cond = for_autograd(it.cond)
        return plain
    return it


def _on_the_same_memory(tensor: torch.Tensor) -> torch.Tensor:
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
        return tensor.detach().clone()  # a kind of its own, such as a quantised one
    plain = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return plain.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


@contextmanager
def _weights_for_autograd(model: torch.nn.Module) -> Iterator[None]:
    """Parameters, buffers and other tensors of the modules are replaced by equal ones that autograd takes."""
    replaced: list[tuple[dict[str, Any], str, torch.Tensor]] = []
    try:
        for module in model.modules():
            held: tuple[dict[str, Any], ...] = (module._parameters, module._buffers, vars(module))
            for its in held:
                for name, it in list(its.items()):
                    if not isinstance(it, torch.Tensor):
                        continue
                    replaced.append((its, name, it))
                    plain = for_autograd(it)
                    its[name] = torch.nn.Parameter(plain, False) if isinstance(it, torch.nn.Parameter) else plain
        yield
    finally:
        for its, name, it in replaced:
            its[name] = it


@contextmanager
def _kernels_with_gradients() -> Iterator[None]:
    """Newer hosts have kernels that gradients cannot pass through, and leave them out while this is set."""
    before = getattr(comfy.model_management, "in_training", None)
    if before is None:  # none to leave out
        yield
        return
    comfy.model_management.in_training = True
    try:
        yield
    finally:
        comfy.model_management.in_training = before


@contextmanager
def _norms_that_keep_their_input(diffusion_model: torch.nn.Module) -> Iterator[None]:
    """Flux and its kin add in place to what a norm has read, and its gradient needs: the norm gets a copy."""

    def copying(forward):
        return lambda x, *args, **kwargs: forward(x.clone() if torch.is_grad_enabled() else x, *args, **kwargs)

    modules = diffusion_model.modules() if hasattr(diffusion_model, "double_blocks") else ()
    with wrapped((it, copying) for it in modules if type(it).__name__.endswith("Norm")):
        yield


def _torch_attention(attention, *args, **kwargs):
    """In place of whatever attention the user has chosen: not all of them have gradients."""
    return sys.modules[attention.__module__].attention_pytorch(*args, **kwargs)


WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def _repeatable(wanted: bool) -> Iterator[None]:
    """Torch computes the same result each time, or raises RuntimeError where it has no kernel that does.

    On a CPU it does so anyway; on a GPU the gradients of attention and of convolutions are otherwise summed in an order
    that changes from run to run. Without `wanted` those kernels are used, and others where there are none.
    """
    memory: Any = torch.utils.deterministic
    strict, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    cudnn, fill, workspace = (
        torch.backends.cudnn.deterministic,
        memory.fill_uninitialized_memory,
        os.environ.get(WORKSPACE),
    )
    torch.use_deterministic_algorithms(True, warn_only=not wanted)
    torch.backends.cudnn.deterministic, memory.fill_uninitialized_memory = True, False
    os.environ.setdefault(WORKSPACE, ":4096:8")  # torch looks for it before it multiplies matrices
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict, warn_only=warn_only)
        torch.backends.cudnn.deterministic, memory.fill_uninitialized_memory = cudnn, fill
        if workspace is None:
            os.environ.pop(WORKSPACE, None)
