"""Sampling and training on a model whose weights the host streams (dynamic VRAM), as ComfyUI does on NVIDIA cards."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import torch

from dev.gpu.child import Reporter, Request, start_host

FILE = "streamed.safetensors"
ITERATIONS = 10


def measure(request: Request, report: Reporter) -> None:
    """Whether weights are streamed; pictures against those of the same file loaded as a whole; what training does."""
    control = _initialised_streaming()  # before the host makes a context on the card, as its main.py does
    request = start_host(replace(request, model="sd15"))
    with torch.inference_mode():
        _measure(request, report, control)


def _measure(request: Request, report: Reporter, control) -> None:
    from comfy.model_management import get_torch_device
    from comfy.sd import load_diffusion_model

    from dev.bench.random_model_session import random_model_setup
    from dev.bench.reference import relative_error
    from dev.bench.sampling_methods import ERASED, SamplingSetup, unguidance
    from dev.families.checkpoints import SMALL_FILES, save_diffusion_model
    from dev.gpu.model_costs import SHORT, identical, times, trained
    from dev.gpu.models import MODELS, attempted, encoded_concept, measured

    device, path = get_torch_device(), Path(request.folder, FILE)
    model = SMALL_FILES[0] if request.small else MODELS["sd15"].model
    dtype = torch.float32 if request.small else MODELS["sd15"].dtype
    save_diffusion_model(model, path, dtype, made_on=device)
    switched_on = control is not None and _streaming_switched_on(control)  # from here on layers are made empty

    def setup_of(disable_dynamic: bool) -> SamplingSetup:
        return random_model_setup(
            model, model.size, dtype, load=lambda: load_diffusion_model(str(path), {}, disable_dynamic)
        )

    setup = setup_of(disable_dynamic=False)
    streamed, whole = (unguidance(it, ERASED, SHORT, 1) for it in (setup, setup_of(disable_dynamic=True)))
    is_streamed = getattr(setup.model, "is_dynamic", bool)()
    report(switched_on=switched_on, streamed=is_streamed, finite=bool(streamed.isfinite().all()),
           error=relative_error(streamed, whole),
           figures={"streamed": int(is_streamed), "bit_identical": int(identical(setup, 1))})  # fmt: skip
    report(**{f"{SHORT} steps": times(setup, SHORT, 1, 1)})
    report(loading=measured(lambda: load_diffusion_model(str(path)), device)[1])
    concept = encoded_concept(request, model)
    report(training=attempted(lambda: trained(request, setup, False, concept, ITERATIONS), device))
    report(error_after_training=relative_error(unguidance(setup, ERASED, SHORT, 1), streamed))


def _initialised_streaming():
    """comfy-aimdo's control module, initialised; None without a card, and on hosts that do not stream weights."""
    if not torch.cuda.is_available():
        return None
    with contextlib.suppress(ImportError):
        from comfy_aimdo import control

        try:
            control.init(nvml_pressure=True)
        except TypeError:  # comfy-aimdo 0.4.10
            control.init()
        return control
    return None


def _streaming_switched_on(control) -> bool:
    """Do what the host's main.py does on an NVIDIA card; whether it worked."""
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher

    devices = [device.index for device in comfy.model_management.get_all_torch_devices()]
    try:
        works = control.init_devices((index, 0) for index in devices)
    except TypeError:  # comfy-aimdo 0.4.9
        works = control.init_devices(iter(devices))
    if works:
        comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
        comfy.memory_management.aimdo_enabled = True
    return bool(works)
