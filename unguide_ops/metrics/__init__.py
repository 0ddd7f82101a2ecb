"""How well a concept is forgotten, and what else has changed, in the measures of the literature (docs/evaluation.md).

Each under its own name. Nothing here knows ComfyUI; what a measure needs beside torch is imported when it is asked for.
"""

from .accuracy import TEN, accuracy_ten, accuracy_thirteen, mean_probability, top_1
from .overall import h0

__all__ = ["TEN", "accuracy_ten", "accuracy_thirteen", "h0", "mean_probability", "top_1"]
