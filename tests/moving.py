"""What happens to weights on a machine with a GPU, acted on a CPU, where nothing moves."""

import comfy.model_management
from comfy.model_patcher import ModelPatcher


def act_moves(monkeypatch) -> None:
    """Loading and unloading swap the data of each parameter that they move, as `Module.to(device)` does."""

    def moving(method):
        def moved(self, *args, **kwargs):
            result = method(self, *args, **kwargs)
            for module in self.model.modules():
                if not self.model.model_lowvram or getattr(module, "comfy_patched_weights", False):
                    for parameter in module.parameters(recurse=False):
                        parameter.data = parameter.data.clone()
            return result

        return moved

    monkeypatch.setattr(ModelPatcher, "load", moving(ModelPatcher.load))
    monkeypatch.setattr(ModelPatcher, "unpatch_model", moving(ModelPatcher.unpatch_model))


def leave_in_main_memory(monkeypatch, all_but: float) -> None:
    """What --novram and --lowvram make of a model: no more than so many bytes of it are loaded, the rest is fetched and
    patched when it is needed."""
    load = comfy.model_management.LoadedModel.model_load

    def partly(self, lowvram_model_memory=0, force_patch_weights=False):
        return load(self, all_but, force_patch_weights)

    monkeypatch.setattr(comfy.model_management.LoadedModel, "model_load", partly)
