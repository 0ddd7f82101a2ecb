"""The pack's nodes: each has a schema with its tooltips, and an `execute` that calls one function of unguide_ops."""

from .calibrate import UnGuideCalibrate
from .concept import UnGuideConcept
from .demo_model import UnGuideDemoModel
from .evaluate import UnGuideEvaluate
from .importing import UnGuideImportLoRA
from .lora import UnGuideLoadLoRA, UnGuideSaveLoRA
from .probe import UnGuideStabilityProbe
from .prompt_list import UnGuidePromptList
from .sampling import UnGuidance, UnGuidanceGuider, UnGuidanceKSampler
from .training import UnGuideTrainLoRA

NODES = [
    UnGuideDemoModel,
    UnGuideConcept,
    UnGuideTrainLoRA,
    UnGuideSaveLoRA,
    UnGuideLoadLoRA,
    UnGuideImportLoRA,
    UnGuideCalibrate,
    UnGuideStabilityProbe,
    UnGuidePromptList,
    UnGuidance,
    UnGuidanceKSampler,
    UnGuidanceGuider,
    UnGuideEvaluate,
]
