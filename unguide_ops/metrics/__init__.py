"""Measures of the literature, each under its own name (docs/evaluation.md): is a concept forgotten, what else changed?

Nothing here knows ComfyUI. Libraries that only some measures need are imported when these are used.
"""

from .accuracy import TEN, accuracy_ten, accuracy_thirteen, h0, mean_probability, top_1

__all__ = ["TEN", "accuracy_ten", "accuracy_thirteen", "h0", "mean_probability", "top_1"]
