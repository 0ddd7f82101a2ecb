"""The initial `down` of a LoRA: directions of the encoded text that the concept has and preserved prompts lack.

The paper starts from random directions instead. A LoRA that reads random directions of the text responds to every
prompt, and so changes every prompt's pictures. These directions follow from the encoded prompts alone, without any
model call.
"""

from __future__ import annotations

import torch
from scipy.linalg import eigh


def concept_directions(concept: torch.Tensor, preserved: torch.Tensor, rank: int, ridge: float) -> torch.Tensor:
    """Rows [rank, width] that respond to the concept's tokens [N, width] and hardly to the preserved ones [M, width].

    They maximise `v C v / v (P + ridge * tr(P) / width) v`, where C and P are the mean outer products of the tokens:
    generalised eigenvectors, ordered by eigenvalue, largest first, whose responses to preserved tokens are equally
    large. A larger ridge makes them respond to more of the concept's neighbours, such as synonyms. The first row's
    elements have a root mean square of 1.
    """
    concept, preserved = concept.double(), preserved.double()
    of_concept, of_preserved = (tokens.T @ tokens / len(tokens) for tokens in (concept, preserved))
    width = len(of_concept)
    of_preserved += ridge * of_preserved.trace() / width * torch.eye(width)
    _, vectors = eigh(of_concept.numpy(), of_preserved.numpy(), subset_by_index=(width - rank, width - 1))
    rows = torch.from_numpy(vectors.T.copy()).flip(0)
    return (rows / rows[0].square().mean().sqrt()).float()


def output_scale(outputs: torch.Tensor, concept: torch.Tensor, directions: torch.Tensor) -> float:
    """The ratio of a layer's own outputs for the concept's tokens [N, width] to the first direction's responses there.

    Both are measured as root mean squares. With a scale multiplied by it, a learning rate means the same for every
    layer and model: the share of the layer's output by which an iteration moves it.
    """
    return (outputs.square().mean() / (concept @ directions[0]).square().mean()).sqrt().item()
