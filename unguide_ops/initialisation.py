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
    larger ridge lets more of the concept's neighbours through, synonyms among them. The first row's elements have a
    root mean square of 1.
    """
    concept, preserved = concept.double(), preserved.double()
    wanted, unwanted = (tokens.T @ tokens / len(tokens) for tokens in (concept, preserved))
    width = len(wanted)
    unwanted += ridge * unwanted.trace() / width * torch.eye(width)
    _, vectors = eigh(wanted.numpy(), unwanted.numpy(), subset_by_index=(width - rank, width - 1))
    rows = torch.from_numpy(vectors.T.copy()).flip(0)
    return (rows / rows[0].square().mean().sqrt()).float()


def loudness(outputs: torch.Tensor, concept: torch.Tensor, directions: torch.Tensor) -> float:
    """The factor that makes the first row's response to the concept's tokens as loud as the layer's own outputs there.

    With it a learning rate means the same for every layer and model: the share of the output that an iteration moves.
    """
    return (outputs.square().mean() / (concept @ directions[0]).square().mean()).sqrt().item()
