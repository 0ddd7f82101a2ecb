"""Makes a loaded model differentiable for training, and undoes it at the end."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import torch

from ..lora.forward_patch import patched_forwards


@contextmanager
def differentiable(guider: Any, model_options: dict, repeatable: bool) -> Iterator[None]:
    """A context in which gradients can pass through a guider's loaded model; the model's own weights stay fixed.

    The host loads, moves and patches models in inference mode, which only this context leaves. `repeatable`: equal
    computations give equal results (see `_repeatable_kernels`).
    """
    model, conds = guider.inner_model, guider.conds
    options = model_options["transformer_options"]
    attention_override = options.get("optimized_attention_override")
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_weights_for_autograd(model))
        stack.enter_context(_norms_with_copied_input(model.diffusion_model))
        stack.enter_context(_host_in_training())
        stack.enter_context(_repeatable_kernels(repeatable))
        guider.conds = for_autograd(conds)
        options["optimized_attention_override"] = _torch_attention
        try:
            yield
        finally:
            guider.conds, options["optimized_attention_override"] = conds, attention_override


def for_autograd(value: Any) -> Any:
    """A copy of nested lists, tuples, dicts and conds of the host, with tensors that autograd accepts.

    Autograd refuses a tensor that was made in inference mode ("Inference tensors cannot be saved for backward"), one
    made there and moved outside ("... do not track version counter"), and one made outside and moved there. A move
    (`Module.to`) swaps a parameter's data and leaves a mixture of both, so that `is_inference` does not tell: every
    tensor is made anew, on the memory that it has.
    """
    if isinstance(value, torch.Tensor):
        return _with_same_memory(value)
    if isinstance(value, dict):
        return {key: for_autograd(element) for key, element in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(for_autograd(element) for element in value)
    if hasattr(value, "process_cond"):  # a class of comfy.conds
        cond = copy.copy(value)
        cond.cond = for_autograd(value.cond)
        return cond
    return value


def _with_same_memory(tensor: torch.Tensor) -> torch.Tensor:
    """A new tensor that shares the memory of a plain one; a copy of any other kind, such as a quantised tensor."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
        return tensor.detach().clone()
    shared = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return shared.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


@contextmanager
def _weights_for_autograd(model: torch.nn.Module) -> Iterator[None]:
    """A context in which all tensors of the modules are replaced by equal ones that autograd accepts."""
    originals: list[tuple[dict[str, Any], str, torch.Tensor]] = []
    try:
        for module in model.modules():
            holders: tuple[dict[str, Any], ...] = (module._parameters, module._buffers, vars(module))
            for holder in holders:
                for name, tensor in list(holder.items()):
                    if not isinstance(tensor, torch.Tensor):
                        continue
                    originals.append((holder, name, tensor))
                    plain = for_autograd(tensor)
                    is_parameter = isinstance(tensor, torch.nn.Parameter)
                    holder[name] = torch.nn.Parameter(plain, False) if is_parameter else plain
        yield
    finally:
        for holder, name, tensor in originals:
            holder[name] = tensor


@contextmanager
def _host_in_training() -> Iterator[None]:
    """A context in which the host computes so that gradients can be computed afterwards.

    Newer hosts leave out kernels that gradients cannot pass through. Weights that wait in main memory are copied to
    memory of their own: to NVIDIA cards the host otherwise copies them through buffers, each of which the next weight
    overwrites before the gradient is computed ("modified by an inplace operation").
    """
    management, wanted = comfy.model_management, {"in_training": True, "NUM_STREAMS": 0}
    before = {name: getattr(management, name) for name in wanted if hasattr(management, name)}
    try:
        for name in before:
            setattr(management, name, wanted[name])
        yield
    finally:
        for name, value in before.items():
            setattr(management, name, value)


@contextmanager
def _norms_with_copied_input(diffusion_model: torch.nn.Module) -> Iterator[None]:
    """A context in which norms read a copy of their input.

    Flux and its relatives add in place to a tensor that a norm has read and that its gradient needs.
    """

    def copying(forward):
        return lambda x, *args, **kwargs: forward(x.clone() if torch.is_grad_enabled() else x, *args, **kwargs)

    modules = diffusion_model.modules() if hasattr(diffusion_model, "double_blocks") else ()
    with patched_forwards((it, copying) for it in modules if type(it).__name__.endswith("Norm")):
        yield


def _torch_attention(attention: Any, *args, **kwargs) -> torch.Tensor:
    """Torch's own attention, in place of the one that the user has chosen: not all of them have gradients."""
    return sys.modules[attention.__module__].attention_pytorch(*args, **kwargs)


CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def _repeatable_kernels(strict: bool) -> Iterator[None]:
    """A context in which torch's kernels give the same result each time.

    A CPU's do so anyway; on a GPU the gradients of attention and of convolutions are otherwise summed in an order that
    changes from run to run. For an operation without such a kernel, torch raises RuntimeError if `strict`, and uses
    another kernel otherwise.
    """
    settings: Any = torch.utils.deterministic
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn, fill = torch.backends.cudnn.deterministic, settings.fill_uninitialized_memory
    workspace = os.environ.get(CUBLAS_WORKSPACE)
    torch.use_deterministic_algorithms(True, warn_only=not strict)
    torch.backends.cudnn.deterministic, settings.fill_uninitialized_memory = True, False
    os.environ.setdefault(CUBLAS_WORKSPACE, ":4096:8")  # torch refuses to multiply matrices without it
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.backends.cudnn.deterministic, settings.fill_uninitialized_memory = cudnn, fill
        if workspace is None:
            os.environ.pop(CUBLAS_WORKSPACE, None)
