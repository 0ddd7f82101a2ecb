"""What a host could be left with when something has gone wrong: taken down before, and compared afterwards."""

from __future__ import annotations

import comfy.model_management
import comfy.utils
import torch

KINDS = ("wrappers", "callbacks", "attachments", "patches", "object_patches", "injections")


class Traces:
    """All that our work could leave on a MODEL, its network and the host, but for the weights' bits."""

    def __init__(self, model):
        """Take it down."""
        self._model = model
        self._found = self._look()

    def differences(self) -> list[str]:
        """What is not as it was, in words."""
        now = self._look()
        changed = [key for key in {*self._found, *now} if self._found.get(key) != now.get(key)]
        return [f"{key} is {now.get(key)!r}, and was {self._found.get(key)!r}" for key in sorted(changed)]

    def _look(self) -> dict[str, object]:
        network = self._model.model
        found: dict[str, object] = {
            "grad mode": torch.is_grad_enabled(),
            "inference mode": torch.is_inference_mode_enabled(),
            "the host's in_training": getattr(comfy.model_management, "in_training", None),
            "a waiting interrupt": comfy.model_management.processing_interrupted(),
            "the progress hook": comfy.utils.PROGRESS_BAR_HOOK,
            "model_options": _shape(self._model.model_options),
            **{kind: _shape(getattr(self._model, kind, None)) for kind in KINDS},
        }
        for name, module in network.named_modules():
            found[f"forward of {name}"] = vars(module).get("forward")
            found[f"training of {name}"] = module.training
            found[f"hooks of {name}"] = (len(module._forward_hooks), len(module._forward_pre_hooks),
                                         len(module._backward_hooks))  # fmt: skip
        for name, weight in network.named_parameters():
            stays = self._model.load_device.type == "cpu"  # to a GPU and back the host moves weights as it likes
            place = weight.data_ptr() if stays else None
            found[f"weight {name}"] = (id(weight), place, tuple(weight.shape), weight.dtype)
            found[f"gradients of {name}"] = (weight.requires_grad, weight.grad)
        return found


def _shape(it) -> object:
    """A dict of dicts by its keys."""
    if isinstance(it, dict):
        return {str(key): _shape(value) for key, value in it.items()}
    return len(it) if isinstance(it, list | tuple) else type(it).__name__


def bits_of(model) -> dict[str, torch.Tensor]:
    """Copies of all weights of a MODEL, in main memory, wherever the model is."""
    return {name: weight.to("cpu", copy=True) for name, weight in model.model.state_dict().items()}


def changed_bits(model, before: dict[str, torch.Tensor]) -> list[str]:
    """The names of weights that are not those of `bits_of`, in words."""
    now = bits_of(model)
    return [f"the bits of {name} have changed" for name, it in before.items() if not torch.equal(it, now[name])]
