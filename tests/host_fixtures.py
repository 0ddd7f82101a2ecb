"""A real host in this process, on the device of `dev test`; the pack as the host loads it; the embedded model."""

import pytest
from precision import compute_in_full_precision
from real_host import HOST

from dev.environment import make_base
from dev.inprocess import start_scratch_host
from dev.server import HostServer

if not (HOST / "main.py").is_file():
    pytest.exit(f"No ComfyUI in {HOST}: run `python dev test`, which sets one up.", returncode=2)
start_scratch_host(HOST)
compute_in_full_precision()

import comfy.model_management  # noqa: E402
import nodes  # noqa: E402
import torch  # noqa: E402
from unguide.demo_model.loader import load_demo_model  # noqa: E402
from unguide.unguide_ops import host  # noqa: E402
from unguide.unguide_ops.concept import EncodedConcept, concept_from  # noqa: E402
from unguide.unguide_ops.concept_lora import ConceptLoRA  # noqa: E402
from unguide.unguide_ops.lora import target_layers  # noqa: E402
from unguide.unguide_ops.lora.low_rank import LayerSlice, LowRankPair  # noqa: E402
from unguide.unguide_ops.pipeline import train_concept  # noqa: E402
from unguide.unguide_ops.training import config  # noqa: E402

CAT, DOG = "a photo of the cat", "a photo of the dog"


@pytest.fixture(autouse=True)
def models_forgotten():
    """After each test, the host forgets models whose patcher is gone while another patcher still has the model.

    It never does by itself, and collects all garbage at each load as long as there is one: half a second each time in a
    process as large as this.
    """
    yield
    loaded = comfy.model_management.current_loaded_models
    loaded[:] = [it for it in loaded if not it.is_dead()]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A real one, with data of its own."""
    with HostServer(HOST, make_base(tmp_path_factory.mktemp("base"))) as server:
        yield server


@pytest.fixture(scope="module")
def schemas(server):
    """Its nodes'."""
    return server.schemas()


@pytest.fixture(scope="session")
def demo():
    """The embedded model as the host's node execution makes it."""
    with torch.inference_mode():
        return load_demo_model()


@pytest.fixture(scope="session")
def model(demo):
    return demo[0]


@pytest.fixture(scope="session")
def clip(demo):
    return demo[1]


@pytest.fixture(scope="session")
def concept(clip):
    """The cat."""
    with torch.inference_mode():
        return EncodedConcept.of(concept_from("cat", "", "", "", ""), lambda prompt: host.encode(clip, prompt))


@pytest.fixture(scope="session")
def lora(model, clip):
    """A LoRA of random pairs, strong enough to change every picture."""
    generator = torch.Generator().manual_seed(1)
    names = host.names_in_files(model, "kohya")
    pairs = {}
    for path, linear in target_layers.select_target_layers(
        model.model.diffusion_model, target_layers.CROSS_ATTENTION
    ).linears.items():
        pair = LowRankPair.create(linear.in_features, linear.out_features, 2, 1.0, generator)
        pair.up = 0.2 * torch.randn(pair.up.shape, generator=generator)
        pairs[names[LayerSlice(path)]] = pair
    with torch.inference_mode():
        return ConceptLoRA(pairs, target_prompt=host.pack_conditioning(host.encode(clip, CAT)))


@pytest.fixture(scope="session")
def trained(model, concept):
    """The cat forgotten, and its gate calibrated."""
    with torch.inference_mode():
        return train_concept(model, concept, config.preset("object", width=64, height=64)).lora


@pytest.fixture(scope="session")
def sample(clip):
    """sample(MODEL, prompt, ...) -> the latent a stock KSampler gives, two pictures."""

    def run(model, prompt=CAT, sampler="euler", steps=6, cfg=7.5, seed=3, negative="", scheduler="normal"):
        latent = nodes.EmptyLatentImage().generate(64, 64, 2)[0]
        positive, negative = host.encode(clip, prompt), host.encode(clip, negative)
        return host.ksample(model, seed, steps, cfg, sampler, scheduler, positive, negative, latent, 1.0)["samples"]

    return run
