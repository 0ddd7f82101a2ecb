"""The one package that knows ComfyUI's internals; everything else in `unguide_ops` asks here."""

from .calls import Call, Prompt, text_of
from .conditioning import Conditioning, encode, pack_conditioning, unpack_conditioning
from .counting import EvaluationCounter
from .folders import (
    clip_files,
    clip_path,
    input_files,
    input_path,
    lora_files,
    lora_path,
    new_lora_path,
    new_lora_paths,
    new_output_paths,
    version_of,
)
from .layers import (
    as_in_its_file,
    base_model,
    check_trainable,
    diffusion_model,
    ejected,
    file_names,
    fingerprint,
    layer_names,
    layer_outputs,
    places,
    weight_of,
)
from .live import LiveModel, empty_latent, noise_like, session
from .memory import OutOfMemory, TrainingMemory, at_the_device, rows_that_fit
from .patching import converted, weight_changes
from .runs import Run, RunAgain
from .sampling import SAMPLERS, SCHEDULERS, cfg_guider, ksample
from .steering import steer
from .watching import Interrupted, Watch, decoder, keep_on_node, say_on_node

__all__ = [
    "SAMPLERS", "SCHEDULERS", "Call", "Conditioning", "EvaluationCounter", "Interrupted", "LiveModel",
    "OutOfMemory", "Prompt", "Run", "RunAgain", "TrainingMemory", "Watch", "as_in_its_file", "at_the_device",
    "base_model", "cfg_guider", "check_trainable", "clip_files", "clip_path", "converted", "decoder",
    "diffusion_model", "ejected", "empty_latent", "encode", "file_names", "fingerprint", "input_files", "input_path",
    "keep_on_node", "ksample", "layer_names", "layer_outputs", "lora_files", "lora_path", "new_lora_path",
    "new_lora_paths", "new_output_paths", "noise_like", "pack_conditioning", "places", "rows_that_fit", "say_on_node",
    "session", "steer", "text_of", "unpack_conditioning", "version_of", "weight_changes", "weight_of",
]  # fmt: skip
