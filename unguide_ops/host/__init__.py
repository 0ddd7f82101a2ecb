"""All use of ComfyUI's internals: the rest of the pack reaches the host through the names exported here."""

from .conditioning import encode, pack_conditioning, unpack_conditioning
from .evaluation_counter import EvaluationCounter
from .folders import (
    clip_files,
    clip_path,
    file_version,
    input_files,
    input_path,
    lora_files,
    lora_path,
    new_lora_paths,
    new_output_paths,
)
from .layers import (
    base_model,
    check_trainable,
    diffusion_model,
    fingerprint,
    injections_ejected,
    layer_names,
    layer_outputs,
    layer_slices,
    names_in_files,
    original_modules,
    weight_of,
)
from .memory import OutOfMemory, TrainingMemory, on_device, rows_that_fit
from .patching import host_key_names, weight_changes
from .prediction_call import PredictionCall
from .progress import Interrupted, ProgressReporter, decoder, lasting_status_writer, show_status
from .prompt import Prompt, repeated, text_of
from .sampling import SAMPLERS, SCHEDULERS, cfg_guider, ksample
from .sampling_run import RestartRun, SamplingRun
from .session import LiveModel, empty_latent, noise_like, session
from .steered_model import steered_model
from .types import Clip, Conditioning, Latent, Model, Vae

__all__ = [
    "Clip", "Conditioning", "EvaluationCounter", "Interrupted", "Latent", "LiveModel", "Model", "OutOfMemory",
    "PredictionCall", "ProgressReporter", "Prompt", "RestartRun", "SAMPLERS", "SCHEDULERS", "SamplingRun",
    "TrainingMemory", "Vae", "base_model", "cfg_guider", "check_trainable", "clip_files", "clip_path", "decoder",
    "diffusion_model", "empty_latent", "encode", "file_version", "fingerprint", "host_key_names",
    "injections_ejected", "input_files", "input_path", "ksample", "lasting_status_writer", "layer_names",
    "layer_outputs", "layer_slices", "lora_files", "lora_path", "names_in_files", "new_lora_paths",
    "new_output_paths", "noise_like", "on_device", "original_modules", "pack_conditioning", "repeated", "rows_that_fit",
    "session", "show_status", "steered_model", "text_of", "unpack_conditioning", "weight_changes", "weight_of",
]  # fmt: skip
