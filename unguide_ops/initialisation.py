"""Where a concept LoRA looks: the directions of text that the concept has and preserved prompts lack. Pure torch.

Not in the paper, which starts from random directions: a LoRA that reads random directions of the text hears every
prompt, and so changes every prompt. Found from the encoded prompts alone, before the first evaluation.
"""

from __future__ import annotations

import torch
from scipy.linalg import eigh


def concept_directions(concept: torch.Tensor, preserved: torch.Tensor, rank: int, ridge: float) -> torch.Tensor:
    """Rows [rank, width] that respond to the concept's tokens [N, width] and hardly to the preserved ones [M, width].

    They maximise `v C v / v (P + ridge * tr(P) / width) v`, where C and P are the mean outer products of the tokens:
    generalised eigenvectors, in the order of their eigenvalues, each as loud on preserved tokens as the others. A
    larger ridge lets more of the concept's neighbours through, synonyms among them. The first row's response to the
    concept's tokens is that of a row of the paper's random N(0, 1 / rank).
    """
    concept, preserved = concept.double(), preserved.double()
    wanted, unwanted = (tokens.T @ tokens / len(tokens) for tokens in (concept, preserved))
    width = len(wanted)
    unwanted += ridge * unwanted.trace() / width * torch.eye(width)
    _, vectors = eigh(wanted.numpy(), unwanted.numpy(), subset_by_index=(width - rank, width - 1))
    rows = torch.from_numpy(vectors.T.copy()).flip(0)
    response = (concept @ rows[0]).square().mean().sqrt()
    usual = (concept.square().sum(1).mean() / rank).sqrt()
    return (rows * (usual / response)).float()
