"""Not an imitation: ComfyUI's own nodes that make a MODEL, a GUIDER, a CONDITIONING or HOOKS, by its list of nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import comfy.hooks
import folder_paths
import nodes
import torch
from imitations.parts import Expected, Part
from imitations.sampling import HOUSE, Assets, Sampling
from safetensors.torch import save_file

GROUPS = {"GUIDER": "guiders", "MODEL": "patches of the MODEL", "HOOKS": "hooks", "CONDITIONING": "conditioning"}
REQUIRED_INPUTS = {"GUIDER": {"MODEL"}, "MODEL": {"MODEL"}, "HOOKS": set(), "CONDITIONING": {"CONDITIONING", "CLIP"}}
"""Output type of a node -> the types of which it must take one to count."""
UNTRIED = "of a newer host, not looked at yet"

OTHER_FAMILY = "made for another family of models"
VIDEO = "made for video models"
FLOW = "gives the model noise levels that it was not trained for"
LEFT_OUT: Mapping[str, tuple[str, ...]] = {
    OTHER_FAMILY: (
        "ChromaRadianceOptions", "ModelMergeAuraflow", "ModelMergeCosmos14B", "ModelMergeCosmos7B",
        "ModelMergeCosmosPredict2_14B", "ModelMergeCosmosPredict2_2B", "ModelMergeFlux1", "ModelMergeLTXV",
        "ModelMergeMochiPreview", "ModelMergeQwenImage", "ModelMergeSD2", "ModelMergeSD35_Large", "ModelMergeSD3_2B",
        "ModelMergeSDXL", "ModelMergeWAN2_1", "QwenImageDiffsynthControlnet", "ScaleROPE", "SkipLayerGuidanceDiT",
        "SkipLayerGuidanceDiTSimple", "SkipLayerGuidanceSD3", "USOStyleReference", "CLIPTextEncodeFlux",
        "CLIPTextEncodeHiDream", "CLIPTextEncodeHunyuanDiT", "CLIPTextEncodeLumina2", "CLIPTextEncodePixArtAlpha",
        "CLIPTextEncodeSD3", "CLIPTextEncodeSDXL", "CLIPTextEncodeSDXLRefiner", "ControlNetInpaintingAliMamaApply",
        "FluxDisableGuidance", "FluxGuidance", "FluxKontextMultiReferenceLatentMethod", "HunyuanRefinerLatent",
        "InstructPixToPixConditioning", "PhotoMakerEncode", "ReferenceLatent", "SD_4XUpscale_Conditioning",
        "StableCascade_StageB_Conditioning", "StyleModelApply", "TextEncodeAceStepAudio", "TextEncodeQwenImageEdit",
        "TextEncodeQwenImageEditPlus", "unCLIPConditioning", "AnimaLLLiteApply", "CLIPTextEncodeKandinsky5",
        "FluxKVCache", "HiDreamO1PatchSeamSmoothing", "HiDreamO1ReferenceImages", "ModelMergeKrea2", "PiDConditioning",
        "SUPIRApply", "TextEncodeBooguEdit", "TextEncodeJoyImageEdit", "TextEncodeMageFlowEdit",
        "TextEncodeZImageOmni", "TripoSplatSamplingPreview", "ZImageFunControlnet",
    ),
    VIDEO: (
        "UNetTemporalAttentionMultiply", "WanContextWindowsManual", "ConditioningSetAreaPercentageVideo",
        "HunyuanImageToVideo", "HunyuanVideo15ImageToVideo", "HunyuanVideo15SuperResolution", "LTXVAddGuide",
        "LTXVConditioning", "LTXVCropGuides", "LTXVImgToVideo", "TextEncodeHunyuanVideo_ImageToVideo",
        "Wan22FunControlToVideo", "WanAnimateToVideo", "WanCameraImageToVideo", "WanFirstLastFrameToVideo",
        "WanFunControlToVideo", "WanFunInpaintToVideo", "WanHuMoImageToVideo", "WanImageToVideo",
        "WanPhantomSubjectToVideo", "WanSoundImageToVideo", "WanSoundImageToVideoExtend", "WanTrackToVideo",
        "WanVaceToVideo", "ARVideoI2V", "BerniniConditioning", "Kandinsky5ImageToVideo", "LTXVContextWindows",
        "LTXVReferenceAudio", "MiniMaxH3ImageToVideo", "MiniMaxH3ReferenceToVideo", "MiniMaxH3SigmaShift",
        "VOIDInpaintConditioning", "WanDancerVideo", "WanInfiniteTalkToVideo", "WanMoveTrackToVideo",
        "WanSCAILToVideo", "WanUni3CControlnetApply",
    ),
    FLOW: ("ModelSamplingAuraFlow", "ModelSamplingFlux", "ModelSamplingLTXV", "ModelSamplingSD3",
           "ModelSamplingStableCascade", "ModelSamplingContinuousEDM", "ModelSamplingContinuousV",
           "ModelNoiseScale"),
    "makes the difference of two models, which draws nothing": ("ModelMergeSubtract",),
    "made for sound": ("ConditioningStableAudio", "ReferenceTimbreAudio", "TextEncodeAceStepAudio1.5"),
    "trains": ("TrainLoraNode", "MakeTrainingDataset", "ResolutionBucket"),
    "does nothing": ("wanBlockSwap",),
    "needs a file of a whole model, and changes weights as CreateHookLora does": (
        "CreateHookModelAsLora", "CreateHookModelAsLoraModelOnly",
    ),
    "encodes the prompt that all others are tried with": ("CLIPTextEncode",),
    "needs a GLIGEN model, which nobody has for the embedded one": ("GLIGENTextBoxApply",),
}  # fmt: skip
"""Nodes that cannot apply to the embedded model, by the reason."""

STYLE, HYPERNETWORK = "not-ours.safetensors", "not-ours.pt"
TRIED: Mapping[str, Mapping[str, Any]] = {
    "APG": {"momentum": -0.5},
    "BasicGuider": {},
    "CFGGuider": {},
    "CFGOverride": {"cfg": 3.0, "end_percent": 0.5},
    "CFGNorm": {},
    "CFGZeroStar": {},
    "CLIPTextEncodeControlnet": {"text": HOUSE},
    "CombineHooks2": {},
    "CombineHooks4": {},
    "CombineHooks8": {},
    "ConditioningAverage": {"conditioning_to_strength": 0.9},
    "ConditioningCombine": {},
    "ConditioningConcat": {},
    "ConditioningMultiply": {"multiplier": 1.1},
    "ConditioningSetArea": {"width": 48},
    "ConditioningSetAreaPercentage": {"width": 0.75},
    "ConditioningSetAreaStrength": {"strength": 0.5},
    "ConditioningSetDefaultCombine": {},
    "ConditioningSetMask": {},
    "ConditioningSetProperties": {},
    "ConditioningSetPropertiesAndCombine": {},
    "ConditioningSetTimestepRange": {"end": 0.7},
    "ConditioningZeroOut": {},
    "ContextWindowsManual": {"context_length": 6, "context_overlap": 2, "dim": 3},
    "ControlNetApply": {},
    "ControlNetApplyAdvanced": {},
    "ControlNetApplySD3": {},
    "CreateHookLora": {"lora_name": STYLE},
    "CreateHookLoraModelOnly": {"lora_name": STYLE},
    "DifferentialDiffusion": {},
    "DualCFGGuider": {},
    "DualModelGuider": {},
    "EasyCache": {"reuse_threshold": 5.0},
    "Epsilon Scaling": {},
    "FreSca": {},
    "FreeU": {},
    "FreeU_V2": {},
    "HyperTile": {"tile_size": 32, "swap_size": 4, "max_depth": 1},
    "HypernetworkLoader": {"hypernetwork_name": HYPERNETWORK},
    "InpaintModelConditioning": {},
    "LatentApplyOperationCFG": {},
    "LazyCache": {"reuse_threshold": 5.0},
    "LoraLoader": {"lora_name": STYLE},
    "LoraLoaderBypass": {"lora_name": STYLE},
    "LoraLoaderBypassModelOnly": {"lora_name": STYLE},
    "LoraLoaderModelOnly": {"lora_name": STYLE},
    "LoraModelLoader": {},
    "Mahiro": {},
    "ModelComputeDtype": {"dtype": "bf16"},
    "ModelMergeAdd": {},
    "ModelMergeBlocks": {"input": 0.5},
    "ModelMergeSD1": {"middle_block.1.": 0.5, "output_blocks.1.": 0.5},
    "ModelMergeSimple": {"ratio": 0.5},
    "ModelSamplingDiscrete": {"zsnr": True},
    "MultiGPU_WorkUnits": {},
    "NAGuidance": {},
    "PairConditioningCombine": {},
    "PairConditioningSetDefaultCombine": {},
    "PairConditioningSetProperties": {},
    "PairConditioningSetPropertiesAndCombine": {},
    "PatchModelAddDownscale": {"end_percent": 1.0, "block_number": 2},
    "PerpNeg": {},
    "PerpNegGuider": {},
    "PerturbedAttentionGuidance": {},
    "RenormCFG": {"renorm_cfg": 0.5},
    "RescaleCFG": {},
    "SelectModelDevice": {},
    "SelfAttentionGuidance": {},
    "SetHookKeyframes": {},
    "TCFG": {},
    "TemporalScoreRescaling": {},
    "TomePatchModel": {},
    "TorchCompileModel": {"backend": "eager"},
    "UNetCrossAttentionMultiply": {"k": 1.2, "out": 0.9},
    "UNetSelfAttentionMultiply": {"q": 1.1, "v": 0.9},
    "VideoLinearCFGGuidance": {},
    "VideoTriangleCFGGuidance": {},
}
"""Nodes that are tried -> values of inputs whose default does not fit the embedded model, or would change no picture.
"""

BATCH = "ComfyUI's own node fails with more than one picture"
SECOND_PROMPT = Expected(no_effect="its prompt counts where the other has no area")
MEASURES_BATCH = Expected(another_picture="it measures the whole batch, in which the other picture is steered")
ONE_DEVICE = Expected(no_effect="there is one device")
EXPECTED: Mapping[str, Expected] = {
    "ConditioningSetAreaStrength": Expected(no_effect="of one prompt, strength is no matter"),
    "ConditioningSetDefaultCombine": SECOND_PROMPT,
    "ConditioningZeroOut": Expected(erased=False),
    "ContextWindowsManual": Expected(one_picture=BATCH),
    "DualModelGuider": Expected(refusal="second MODEL"),
    "InpaintModelConditioning": Expected(no_effect="only models for inpainting look at it"),
    "Mahiro": MEASURES_BATCH,
    "ModelComputeDtype": Expected(tolerance=0.2),  # half precision
    "MultiGPU_WorkUnits": ONE_DEVICE,
    "PairConditioningSetDefaultCombine": SECOND_PROMPT,
    "PerpNeg": MEASURES_BATCH,
    "RenormCFG": Expected(one_picture=BATCH),
    "SelectModelDevice": ONE_DEVICE,
    "TemporalScoreRescaling": Expected(one_picture=BATCH),
    "TorchCompileModel": Expected(no_effect="compiled, it computes the same"),
}
STEPS = {"EasyCache": 5, "LazyCache": 5}  # enough to skip some
FAST = {
    "EasyCache", "HyperTile", "TomePatchModel", "PerturbedAttentionGuidance", "LoraLoaderModelOnly", "DualCFGGuider",
    "ConditioningSetMask", "SetHookKeyframes", "ControlNetApplyAdvanced", "CFGOverride", "DualModelGuider",
    "LoraLoaderBypassModelOnly", "NAGuidance",
}  # fmt: skip


def load() -> None:
    """Load ComfyUI's extra nodes, which otherwise only a server does."""
    asyncio.run(nodes.init_builtin_extra_nodes())


def nodes_that_count() -> dict[str, type]:
    """Node id -> class."""
    return {name: cls for name, cls in sorted(nodes.NODE_CLASS_MAPPINGS.items()) if _output(cls) is not None}


def listed() -> list[str]:
    """The nodes of which this file says something."""
    return [*TRIED, *(name for names in LEFT_OUT.values() for name in names)]


def parts() -> list[Part]:
    """A part for each node that can apply to the embedded model; unlisted nodes are in the group `UNTRIED`."""
    left_out = {name for names in LEFT_OUT.values() for name in names}
    return [_part(name, cls) for name, cls in nodes_that_count().items() if name not in left_out]


def _output(cls) -> str | None:
    """The type for which a node counts, one of `GROUPS`."""
    outputs = {str(kind) for kind in cls.RETURN_TYPES}
    inputs = {str(kind) for kind, _ in _inputs(cls).values() if not isinstance(kind, list)}
    return next((o for o in GROUPS if o in outputs and (not REQUIRED_INPUTS[o] or REQUIRED_INPUTS[o] & inputs)), None)


def _inputs(cls) -> dict[str, tuple[Any, dict]]:
    """Name -> (type or list of choices, options)."""
    groups = cls.INPUT_TYPES()
    entries = {**groups.get("required", {}), **groups.get("optional", {})}
    kinds = {name: getattr(entry[0], "value", entry[0]) for name, entry in entries.items()}  # some are enumerations
    return {name: (kinds[name], entry[1] if len(entry) > 1 else {}) for name, entry in entries.items()}


def _part(name: str, cls) -> Part:
    output = _output(cls)
    group = GROUPS[output or ""] if name in TRIED else UNTRIED
    common = {"expected": EXPECTED.get(name, Expected()), "steps": STEPS.get(name, 3), "fast": name in FAST}

    def patch(assets: Assets, model):
        return run(cls, _values(name, cls, assets, model=model))[0]

    def change(sampling: Sampling) -> None:
        if output == "GUIDER":
            sampling.guider = lambda model: run(cls, _values(name, cls, sampling.assets, sampling, model))[0]
            return
        results = run(cls, _values(name, cls, sampling.assets, sampling))
        if output == "HOOKS":
            (sampling.positive,) = comfy.hooks.set_conds_props([sampling.positive], 1.0, "default", hooks=results[0])
            return
        kinds = zip(results, cls.RETURN_TYPES, strict=False)
        conds = [result for result, kind in kinds if str(kind) == "CONDITIONING"]
        sampling.positive, sampling.negative = (*conds, sampling.negative)[:2]

    def add_mask(sampling: Sampling) -> None:
        sampling.denoise_mask = sampling.assets.mask

    if output != "MODEL":
        return Part(name, group, change=change, **common)
    if name == "DifferentialDiffusion":  # it changes what a mask does
        return Part(name, group, patch, add_mask, **common)
    return Part(name, group, patch, **common)


def run(cls, values: Mapping[str, Any]) -> tuple:
    """The outputs of a node, of ComfyUI's first or third API."""
    result = cls.execute(**values) if hasattr(cls, "GET_SCHEMA") else getattr(cls(), cls.FUNCTION)(**values)
    return tuple(getattr(result, "args", result))


def _values(name: str, cls, assets: Assets, sampling: Sampling | None = None, model=None) -> dict[str, Any]:
    """A value for each input: that of `TRIED`, the default, the first choice, or an object of its type."""
    values = {}
    for key, (kind, options) in _inputs(cls).items():
        if key in TRIED.get(name, {}):
            values[key] = _with_file(assets, TRIED[name][key])
        elif "default" in options:
            values[key] = options["default"]
        elif isinstance(kind, list):
            values[key] = kind[0] if kind else None
        elif "options" in options:
            values[key] = options["options"][0]
        elif str(kind) == "MODEL":
            values[key] = assets.second_model if key in ("model2", "model_negative") else model
        elif str(kind) == "CONDITIONING" and sampling is not None:
            values[key] = _conditioning(key, sampling)
        else:
            values[key] = OBJECTS[str(kind)](assets)
    return values


def _conditioning(key: str, sampling: Sampling):
    """The sampling's own prompts, or another one for the inputs that take a further prompt."""
    if "empty" in key:
        return sampling.assets.encode("")
    if key.startswith("negative") and not key.endswith(("_B", "_NEW", "_DEFAULT")):
        return sampling.negative
    if key in FURTHER_PROMPTS:
        return sampling.assets.encode(*[HOUSE] * len(sampling.prompts))
    return sampling.positive


def _keyframes(assets: Assets):
    group = comfy.hooks.HookKeyframeGroup()
    group.add(comfy.hooks.HookKeyframe(strength=1.0, start_percent=0.0))
    group.add(comfy.hooks.HookKeyframe(strength=0.3, start_percent=0.4))
    return group


OBJECTS: Mapping[str, Callable[[Assets], Any]] = {
    "CLIP": lambda assets: assets.clip,
    "CONDITIONING": lambda assets: assets.encode(""),
    "CONTROL_NET": lambda assets: assets.control_net(),
    "HOOKS": lambda assets: comfy.hooks.create_hook_lora(assets.style_lora, 1.0, 1.0),
    "HOOK_KEYFRAMES": _keyframes,
    "IMAGE": lambda assets: assets.image,
    "LATENT_OPERATION": lambda assets: run(nodes.NODE_CLASS_MAPPINGS["LatentOperationSharpen"], SHARPEN)[0],
    "LORA_MODEL": lambda assets: assets.style_lora,
    "MASK": lambda assets: assets.mask,
    "TIMESTEPS_RANGE": lambda assets: (0.0, 1.0),
    "VAE": lambda assets: assets.vae,
}
SHARPEN = {"sharpen_radius": 1, "sigma": 1.0, "alpha": 0.5}
FURTHER_PROMPTS = {"conditioning_from", "conditioning_2", "cond2", "cond_DEFAULT", "positive_B", "positive_DEFAULT",
                   "negative_B", "negative_NEW", "negative_DEFAULT"}  # fmt: skip
"""Names of inputs for a prompt that is not the picture's own."""


def _with_file(assets: Assets, value):
    """The value; where it names one of this file's models, that is written first."""
    if value not in (STYLE, HYPERNETWORK):
        return value
    folder = Path(folder_paths.get_folder_paths("loras" if value == STYLE else "hypernetworks")[0])
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / value).exists():
        if value == STYLE:
            save_file(assets.style_lora, folder / value)
        else:
            torch.save(_hypernetwork(assets), folder / value)
    return value


def _hypernetwork(assets: Assets) -> dict:
    """A hypernetwork with one layer each for keys and values."""
    width = assets.encode("")[0][0].shape[-1]
    generator = torch.Generator().manual_seed(6)

    def layer():
        return {"linear.0.weight": 0.3 * torch.randn(width, width, generator=generator) / width**0.5,
                "linear.0.bias": torch.zeros(width)}  # fmt: skip

    return {width: [layer(), layer()]}
