"""The training loop (paper section 3.1): a small LoRA under which the target prompt predicts something else."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from . import host, targets
from .branch import Branch
from .concept import NEUTRAL, EncodedConcept
from .lora import ConceptLoRA, LowRankPair
from .objective import classifier_free_guidance, ddim_step, erasing_loss, retain_loss


@dataclass(frozen=True)
class TrainingSettings:
    """Every control of the training; the defaults are the paper's for objects, and a retain term it does not have."""

    iterations: int = 200
    learning_rate: float = 3e-5  # of Adam
    rank: int = 1
    alpha: float = 8.0  # raw multiplier of the low-rank change
    targets: str = targets.CROSS_ATTENTION
    negative_guidance: float = 2.0  # g of the objective
    start_guidance: float = 9.0  # CFG of the trajectory that the latents are taken from
    steps: int = 50  # of that trajectory's DDIM schedule
    width: int = 512  # pixels
    height: int = 512
    seed: int = 0
    retain_weight: float = 0.5  # of the mean retain loss, for each retained prompt
    retain_prompts: int = 6  # prompts an iteration that must stay as they are


@dataclass
class Losses:
    """One iteration's losses: the paper's, and the mean retain loss (0 without retained prompts)."""

    erasing: float
    retain: float


def train(model, concept: EncodedConcept, settings: TrainingSettings) -> tuple[ConceptLoRA, list[Losses]]:
    """Train a concept LoRA on MODEL; the model itself is left as it was, whatever happens.

    All randomness comes from a CPU generator with `settings.seed`: the same seed gives the same LoRA. Raises the
    host's interrupt when the user cancels, and FloatingPointError when the loss is no longer a number.
    """
    latent = host.empty_latent(model, settings.width, settings.height)
    names = host.file_names(model)
    losses: list[Losses] = []

    def body(live: host.LiveModel) -> dict[str, LowRankPair]:
        generator = torch.Generator().manual_seed(settings.seed)
        pairs = create_pairs(live.diffusion_model, settings, generator)
        parameters = []
        for pair in pairs.values():
            pair.down, pair.up = (t.to(live.device).requires_grad_() for t in (pair.down, pair.up))
            parameters += [pair.down, pair.up]
        optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate)
        branch = Branch(pairs)
        with branch.attached(live.diffusion_model), host.progress(settings.iterations) as done:
            for iteration in range(settings.iterations):
                z, sigma = on_policy_latent(live, branch, latent, concept.concept.target, settings, generator)
                loss = losses_at(live, branch, z, sigma, concept, settings, generator)
                total = loss[0] + settings.retain_weight * loss[1]
                optimizer.zero_grad()
                total.backward()
                optimizer.step()
                losses.append(Losses(loss[0].item(), loss[1].item() / max(1, settings.retain_prompts)))
                if not total.isfinite():
                    raise FloatingPointError(
                        f"The loss is not a number after {iteration + 1} iterations: lower `learning_rate` "
                        f"({settings.learning_rate}) or `alpha` ({settings.alpha})."
                    )
                done(iteration + 1)
        return {names[path]: pair.to("cpu") for path, pair in pairs.items()}

    pairs = host.session(model, concept.prompts, latent, body, trainable=True)
    target_prompt = host.pack_conditioning(concept.prompts[concept.concept.target])
    return ConceptLoRA(pairs, concept.concept.model_dump(mode="json"), asdict(settings), target_prompt), losses


def create_pairs(model: torch.nn.Module, settings: TrainingSettings, generator: torch.Generator):
    """A fresh pair for every target Linear of the diffusion model, by module path."""
    return {
        path: LowRankPair.create(linear.in_features, linear.out_features, settings.rank, settings.alpha, generator)
        for path, linear in targets.select(model, settings.targets).items()
    }


def on_policy_latent(live, branch: Branch, latent, target: str, settings: TrainingSettings, generator):
    """z_t and its noise level: DDIM with the LoRA on, stopped at a random step of the schedule (paper section 3.1)."""
    sigmas = live.ddim_sigmas(settings.steps)[:-1]
    stop = int(torch.randint(len(sigmas), (), generator=generator))
    x = live.first_latents(sigmas[0], torch.randn(latent.shape, generator=generator))
    with torch.no_grad(), branch.on():
        for sigma, sigma_next in zip(sigmas[:stop], sigmas[1:], strict=False):
            cond, uncond = live.denoised(x, sigma, target, NEUTRAL)
            x = ddim_step(x, classifier_free_guidance(uncond, cond, settings.start_guidance), sigma, sigma_next)
    return x, sigmas[stop]


def losses_at(live, branch: Branch, z, sigma: float, concept: EncodedConcept, settings: TrainingSettings, generator):
    """The erasing loss, and the sum of the retain losses of a few random kept prompts, at one latent."""
    target, reference = concept.concept.target, concept.concept.reference
    kept = (NEUTRAL, *concept.concept.kept)
    count = min(settings.retain_prompts, len(kept)) if settings.retain_weight else 0
    retained = [kept[i] for i in torch.randperm(len(kept), generator=generator)[:count]]
    with torch.no_grad():
        e_reference, e_target, *e_kept = live.predictions(z, sigma, reference, target, *retained)
    with branch.on():
        e_lora, *e_lora_kept = live.predictions(z, sigma, target, *retained)
    retain = sum((retain_loss(a, b) for a, b in zip(e_lora_kept, e_kept, strict=True)), z.new_zeros(()))
    return erasing_loss(e_lora, e_target, e_reference, settings.negative_guidance), retain
