"""What the host ships: every node that makes a MODEL, a GUIDER, a CONDITIONING or HOOKS, by its own list of nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import comfy.hooks
import folder_paths
import nodes
import torch
from safetensors.torch import save_file

from dev.composition.parts import Expected, Part
from dev.composition.stage import HOUSE, Scene, Stage

GROUPS = {"GUIDER": "guiders", "MODEL": "patches of the MODEL", "HOOKS": "hooks", "CONDITIONING": "conditioning"}
TAKEN = {"GUIDER": {"MODEL"}, "MODEL": {"MODEL"}, "HOOKS": set(), "CONDITIONING": {"CONDITIONING", "CLIP"}}
"""What a node must take one of, to count."""
UNTRIED = "of a newer host, not looked at yet"

OTHER_FAMILY = "made for another family of models"
VIDEO = "made for video models"
FILE = "only loads a file, which is then a MODEL like any other"
FLOW = "gives the model noise levels that it was not trained for"
OUT: Mapping[str, tuple[str, ...]] = {
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
"""Nodes that are tried, and those of their inputs that need another value than their default, to fit the embedded model
or to change a picture at all.
"""

BATCH = "ComfyUI's own node fails with more than one picture"
EXPECTED: Mapping[str, Expected] = {
    "ConditioningSetAreaStrength": Expected(silent="of one prompt, strength is no matter"),
    "ConditioningSetDefaultCombine": Expected(silent="its prompt counts where the other has no area"),
    "ConditioningZeroOut": Expected(erased=False),
    "ContextWindowsManual": Expected(alone=BATCH),
    "DualModelGuider": Expected(refusal="second MODEL"),
    "InpaintModelConditioning": Expected(silent="only models for inpainting look at it"),
    "Mahiro": Expected(another_picture="it measures the whole batch, in which the other picture is steered"),
    "ModelComputeDtype": Expected(close=0.2),  # half precision
    "MultiGPU_WorkUnits": Expected(silent="there is one device"),
    "PairConditioningSetDefaultCombine": Expected(silent="its prompt counts where the other has no area"),
    "PerpNeg": Expected(another_picture="it measures the whole batch, in which the other picture is steered"),
    "RenormCFG": Expected(alone=BATCH),
    "SelectModelDevice": Expected(silent="there is one device"),
    "TemporalScoreRescaling": Expected(alone=BATCH),
    "TorchCompileModel": Expected(silent="compiled, it computes the same"),
}
STEPS = {"EasyCache": 5, "LazyCache": 5}  # to have some to skip
HASTE = {
    "EasyCache", "HyperTile", "TomePatchModel", "PerturbedAttentionGuidance", "LoraLoaderModelOnly", "DualCFGGuider",
    "ConditioningSetMask", "SetHookKeyframes", "ControlNetApplyAdvanced", "CFGOverride", "DualModelGuider",
    "LoraLoaderBypassModelOnly", "NAGuidance",
}  # fmt: skip


def load() -> None:
    """The host's extra nodes as well, in a process where no server loads them."""
    asyncio.run(nodes.init_builtin_extra_nodes())


def found() -> dict[str, type]:
    """Every node that counts, by its id."""
    return {name: cls for name, cls in sorted(nodes.NODE_CLASS_MAPPINGS.items()) if _kind(cls) is not None}


def unknown() -> list[str]:
    """Those of which this file says nothing: a newer host's."""
    known = {*TRIED, *(name for names in OUT.values() for name in names)}
    return [name for name in found() if name not in known]


def parts() -> list[Part]:
    """A part for each node that can apply to the embedded model; those that are unknown in a group of their own."""
    out = {name for names in OUT.values() for name in names}
    return [_part(name, cls) for name, cls in found().items() if name not in out]


def _kind(cls) -> str | None:
    """What a node makes, if it counts."""
    made = {str(it) for it in cls.RETURN_TYPES}
    taken = {str(kind) for kind, _ in _inputs(cls).values() if not isinstance(kind, list)}
    return next((it for it in GROUPS if it in made and (not TAKEN[it] or TAKEN[it] & taken)), None)


def _inputs(cls) -> dict[str, tuple[Any, dict]]:
    """Name -> (type or choices, options)."""
    groups = cls.INPUT_TYPES()
    its = {**groups.get("required", {}), **groups.get("optional", {})}
    kinds = {name: getattr(it[0], "value", it[0]) for name, it in its.items()}  # enumerations of old
    return {name: (kinds[name], it[1] if len(it) > 1 else {}) for name, it in its.items()}


def _part(name: str, cls) -> Part:
    kind = _kind(cls)
    group = GROUPS[kind or ""] if name in TRIED else UNTRIED
    common = {"expected": EXPECTED.get(name, Expected()), "steps": STEPS.get(name, 3), "in_haste": name in HASTE}

    def patched(stage: Stage, model):
        return run(cls, _values(name, cls, stage, MODEL=model))[0]

    def changed(scene: Scene) -> None:
        if kind == "GUIDER":
            scene.guider = lambda model: run(cls, _values(name, cls, scene.stage, scene, MODEL=model))[0]
            return
        made = run(cls, _values(name, cls, scene.stage, scene))
        if kind == "HOOKS":
            (scene.positive,) = comfy.hooks.set_conds_props([scene.positive], 1.0, "default", hooks=made[0])
            return
        conds = [it for it, of in zip(made, cls.RETURN_TYPES, strict=False) if str(of) == "CONDITIONING"]
        scene.positive, scene.negative = (*conds, scene.negative)[:2]

    def masked(scene: Scene) -> None:
        scene.denoise_mask = scene.stage.mask

    if kind == "MODEL":
        if name == "DifferentialDiffusion":  # it changes what a mask does
            return Part(name, group, model=patched, scene=masked, **common)
        return Part(name, group, model=patched, **common)
    return Part(name, group, scene=changed, **common)


def run(cls, values: Mapping[str, Any]) -> tuple:
    """What a node makes, of either kind that the host has."""
    made = cls.execute(**values) if hasattr(cls, "GET_SCHEMA") else getattr(cls(), cls.FUNCTION)(**values)
    return tuple(getattr(made, "args", made))


def _values(name: str, cls, stage: Stage, scene: Scene | None = None, **given) -> dict[str, Any]:
    """A value for each input: one of TRIED, the default, the first choice, or a thing of its type."""
    values = {}
    for key, (kind, options) in _inputs(cls).items():
        if key in TRIED.get(name, {}):
            values[key] = _file(stage, TRIED[name][key])
        elif "default" in options:
            values[key] = options["default"]
        elif isinstance(kind, list):
            values[key] = kind[0] if kind else None
        elif "options" in options:
            values[key] = options["options"][0]
        else:
            values[key] = _thing(str(kind), key, stage, scene, given)
    return values


def _thing(kind: str, key: str, stage: Stage, scene: Scene | None, given: Mapping[str, Any]):
    if kind == "MODEL":
        return stage.other if key in ("model2", "model_negative") else given["MODEL"]
    if kind == "CONDITIONING" and scene is not None:
        return _conditioning(key, scene)
    return THINGS[kind](stage)


def _conditioning(key: str, scene: Scene):
    """The scene's prompts, or another where a node wants more."""
    if "empty" in key:
        return scene.stage.encode("")
    if key.startswith("negative") and not key.endswith(("_B", "_NEW", "_DEFAULT")):
        return scene.negative
    if key in SECOND:
        return scene.stage.encode(*[HOUSE] * len(scene.prompts))
    return scene.positive


def _hooks(stage: Stage):
    return comfy.hooks.create_hook_lora(stage.style, 1.0, 1.0)


def _keyframes(stage: Stage):
    group = comfy.hooks.HookKeyframeGroup()
    group.add(comfy.hooks.HookKeyframe(strength=1.0, start_percent=0.0))
    group.add(comfy.hooks.HookKeyframe(strength=0.3, start_percent=0.4))
    return group


THINGS: Mapping[str, Callable[[Stage], Any]] = {
    "CLIP": lambda stage: stage.clip,
    "CONDITIONING": lambda stage: stage.encode(""),
    "CONTROL_NET": lambda stage: stage.control_net(),
    "HOOKS": _hooks,
    "HOOK_KEYFRAMES": _keyframes,
    "IMAGE": lambda stage: stage.image,
    "LATENT_OPERATION": lambda stage: run(nodes.NODE_CLASS_MAPPINGS["LatentOperationSharpen"], SHARPEN)[0],
    "LORA_MODEL": lambda stage: stage.style,
    "MASK": lambda stage: stage.mask,
    "TIMESTEPS_RANGE": lambda stage: (0.0, 1.0),
    "VAE": lambda stage: stage.vae,
}
SHARPEN = {"sharpen_radius": 1, "sigma": 1.0, "alpha": 0.5}
SECOND = {"conditioning_from", "conditioning_2", "cond2", "cond_DEFAULT", "positive_B", "positive_DEFAULT",
          "negative_B", "negative_NEW", "negative_DEFAULT"}  # fmt: skip
"""Names of inputs for a prompt that is not the picture's own."""


def _file(stage: Stage, value):
    """Some values are names of files, made when they are needed."""
    if value not in (STYLE, HYPERNETWORK):
        return value
    folder = Path(folder_paths.get_folder_paths("loras" if value == STYLE else "hypernetworks")[0])
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / value).exists():
        if value == STYLE:
            save_file(stage.style, folder / value)
        else:
            torch.save(_hypernetwork(stage), folder / value)
    return value


def _hypernetwork(stage: Stage) -> dict:
    """Of one layer each for keys and values."""
    width = stage.encode("")[0][0].shape[-1]
    generator = torch.Generator().manual_seed(6)

    def layer():
        return {"linear.0.weight": 0.3 * torch.randn(width, width, generator=generator) / width**0.5,
                "linear.0.bias": torch.zeros(width)}  # fmt: skip

    return {width: [layer(), layer()]}
