"""A LoRA's whole life on a model that is not in main memory, run by test_other_device in a process of its own."""

import other_device
from real_host import HOST

from dev.inprocess import start_scratch_host

start_scratch_host(HOST)
other_device.install()

import torch  # noqa: E402
from unguide.demo_model.loader import load_demo_model  # noqa: E402
from unguide.unguide_ops import host  # noqa: E402
from unguide.unguide_ops.concept import Concept, EncodedConcept  # noqa: E402
from unguide.unguide_ops.gate.calibrate import calibrate  # noqa: E402
from unguide.unguide_ops.gate.probe import ProbeConfig, probe  # noqa: E402
from unguide.unguide_ops.guidance.config import SteeringConfig  # noqa: E402
from unguide.unguide_ops.guidance.unguidance import unguide  # noqa: E402
from unguide.unguide_ops.training.config import TrainingConfig  # noqa: E402
from unguide.unguide_ops.training.trainer import train  # noqa: E402

CAT, DOG, CASTLE = "a photo of the cat", "a photo of the dog", "a castle on a hill"
SETTINGS = (
    {}, {"w_erased": -1.0}, {"instead": "swap"}, {"instead": "replace"}, {"words_first": False, "second_look": True},
    {"gate_steps": 2, "restart": True, "lora_branch": "cond and uncond"},
)  # fmt: skip
TINY = TrainingConfig(iterations=2, steps=4, width=64, height=64, batch_size=2, reuse=2, rank=4, learning_rate=4e-3,
                      start_guidance=1.0, schedule="constant")  # fmt: skip


def main():
    model, clip, _ = load_demo_model()
    encoded = EncodedConcept.of(
        Concept(target=CAT, reference="a photo of the sky", synonyms=("a photo of the kitten",), preserve=(DOG,)),
        lambda prompt: host.encode(clip, prompt),
    )  # fmt: skip
    lora = train(model, encoded, TINY).lora
    lora, _ = calibrate(model, lora, encoded, 64, 64, captions=6)
    result = probe(model, lora, encoded.conditioning, [CAT, DOG], ProbeConfig(width=64, height=64))
    assert result.prompt_scores[0].decision.score > 0.9
    both = [[torch.cat([host.encode(clip, prompt)[0][0] for prompt in (CAT, CASTLE)]), {}]]
    moved = [[both[0][0].to(other_device.device()), {}]]
    for positive, tried in ((both, SETTINGS), (moved, SETTINGS[-2:])):  # some hosts keep encoded prompts on the device
        base = draw(model, clip, positive)
        for settings in tried:
            reports = []
            drawn = draw(unguide(model, lora, SteeringConfig(**settings), reports.append), clip, positive)
            assert [it.decision.erased for it in reports[0].decisions] == [True, False], settings
            assert torch.equal(drawn[1], base[1]) and not torch.allclose(drawn[0], base[0], atol=0.01), settings
    picture = draw(model, clip, host.encode(clip, CASTLE))
    draw(unguide(model, lora, SteeringConfig(check_picture=True)), clip, host.encode(clip, CASTLE), picture, 0.5)
    assert next(host.diffusion_model(model).parameters()).device == other_device.device()


def draw(model, clip, positive, latent=None, denoise=1.0):
    latent = torch.zeros(2, 24, 8, 8) if latent is None else latent.cpu()
    negative = host.encode(clip, "")
    return host.ksample(model, 0, 3, 5.0, "euler", "normal", positive, negative, {"samples": latent}, denoise)[
        "samples"
    ].cpu()


if __name__ == "__main__":
    with torch.inference_mode():
        main()
