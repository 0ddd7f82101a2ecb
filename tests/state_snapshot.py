"""What a host could be left with when something has gone wrong: recorded before, and compared afterwards."""

import comfy.model_management
import comfy.utils
import torch

CONTAINERS = ("wrappers", "callbacks", "attachments", "patches", "object_patches", "injections")


class StateSnapshot:
    """All that our work could leave on a MODEL, its network and the host, except for the bits of weights."""

    def __init__(self, model):
        self._model = model
        self._before = self._record()

    def differences(self) -> list[str]:
        """What is not as it was, in words."""
        before, now = self._before, self._record()
        changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
        return [f"{key} is {now.get(key)!r}, and was {before.get(key)!r}" for key in changed]

    def _record(self) -> dict[str, object]:
        network = self._model.model
        record: dict[str, object] = {
            "grad mode": torch.is_grad_enabled(),
            "inference mode": torch.is_inference_mode_enabled(),
            "the host's in_training": getattr(comfy.model_management, "in_training", None),
            "the host's streams": getattr(comfy.model_management, "NUM_STREAMS", None),
            "a waiting interrupt": comfy.model_management.processing_interrupted(),
            "the progress hook": comfy.utils.PROGRESS_BAR_HOOK,
            "model_options": _outline(self._model.model_options),
            **{name: _outline(getattr(self._model, name, None)) for name in CONTAINERS},
        }
        for name, module in network.named_modules():
            record[f"forward of {name}"] = vars(module).get("forward")
            record[f"training of {name}"] = module.training
            hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks
            record[f"hooks of {name}"] = [len(kind) for kind in hooks]
        for name, weight in network.named_parameters():
            stays = self._model.load_device.type == "cpu"  # to a GPU and back the host moves weights as it likes
            address = weight.data_ptr() if stays else None
            record[f"weight {name}"] = (id(weight), address, tuple(weight.shape), weight.dtype)
            record[f"gradients of {name}"] = (weight.requires_grad, weight.grad)
        return record


def _outline(value) -> object:
    """Nested dicts by their keys."""
    if isinstance(value, dict):
        return {str(key): _outline(item) for key, item in value.items()}
    return len(value) if isinstance(value, list | tuple) else type(value).__name__


def copy_weights(model) -> dict[str, torch.Tensor]:
    """Copies of all weights of a MODEL, in main memory."""
    return {name: weight.to("cpu", copy=True) for name, weight in model.model.state_dict().items()}


def changed_weights(model, before: dict[str, torch.Tensor]) -> list[str]:
    """In words, which weights do not have the bits of `copy_weights` before."""
    now = copy_weights(model)
    return [f"the bits of {name} have changed" for name, weight in before.items() if not torch.equal(weight, now[name])]
