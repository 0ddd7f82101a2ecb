"""The pair that a layer's LoRA starts from: what it responds to, and the change that it makes of it.

The paper starts from random directions and no change. A LoRA that reads random directions of the text responds to every
prompt, and so changes every prompt's pictures.
"""

from __future__ import annotations

import torch
from scipy.linalg import cholesky, eigh, solve_triangular

RELATIVELY_ZERO = 1e-9  # an eigenvalue, in units of the largest


def concept_directions(concept: torch.Tensor, preserved: torch.Tensor, rank: int, ridge: float) -> torch.Tensor:
    """Rows [rank, width] that respond to the concept's inputs [N, width] and hardly to the preserved ones [M, width].

    They maximise `v C v / v (P + ridge * tr(P) / width) v`, where C and P are the mean outer products of the inputs:
    generalised eigenvectors, ordered by eigenvalue, largest first, whose responses to preserved inputs are equally
    large. A larger ridge makes them respond to more of the concept's neighbours, such as synonyms. The first row's
    elements have a root mean square of 1. Inputs that span fewer than `rank` directions give rows of zeros beyond. The
    rows are fp32 on the CPU; the inputs may be on a GPU, where the largest products are then computed.
    """
    concept, preserved = concept.double(), preserved.double()
    width = concept.shape[1]
    of_preserved, concept = (preserved.T @ preserved / len(preserved)).cpu(), concept.cpu()
    of_preserved += ridge * of_preserved.trace() / width * torch.eye(width)
    # With P + ridge = L L', u = L' v: the u are the left singular vectors of L^-1 concept', found in the smaller space.
    lower = cholesky(of_preserved.numpy(), lower=True)
    whitened = torch.from_numpy(solve_triangular(lower, concept.T.numpy(), lower=True))
    is_wide = len(concept) < width
    gram = whitened.T @ whitened if is_wide else whitened @ whitened.T
    values, vectors = eigh(gram.numpy(), subset_by_index=(max(0, len(gram) - rank), len(gram) - 1))
    is_found = values > RELATIVELY_ZERO * values[-1]
    values, vectors = values[is_found], vectors[:, is_found]
    left = whitened.numpy() @ vectors / values**0.5 if is_wide else vectors
    rows = torch.from_numpy(solve_triangular(lower.T, left, lower=False).T.copy()).flip(0)
    rows = torch.cat([rows, rows.new_zeros(rank - len(rows), width)])
    return (rows / rows[0].square().mean().sqrt()).float()


def output_scale(outputs: torch.Tensor, concept: torch.Tensor, directions: torch.Tensor) -> float:
    """The ratio of a layer's own outputs for the concept's inputs [N, width] to the first direction's responses there.

    Both are measured as root mean squares. With a scale multiplied by it, a learning rate means the same for every
    layer and model: the share of the layer's output by which an iteration moves it.
    """
    return (outputs.square().mean() / (concept @ directions[0]).square().mean()).sqrt().item()


def closed_form_up(concept: torch.Tensor, preserved: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The `up` [out, rank] whose change is nearest to `wanted` [N, out] for the concept, and to nothing for preserved.

    `concept` [N, rank] and `preserved` [M, rank] are the responses of `down`. A least-squares solution, in which the
    mean square of either error counts the same, as methods that edit weights without training have it (Unified Concept
    Editing, arXiv 2308.14761). It stops short of what would need more than the rank.
    """
    concept, preserved = concept.double(), preserved.double()
    gram = concept.T @ concept / len(concept) + preserved.T @ preserved / len(preserved)
    gram += RELATIVELY_ZERO * gram.trace() * torch.eye(len(gram))
    return torch.linalg.solve(gram, concept.T @ wanted.double() / len(concept)).T.float()
