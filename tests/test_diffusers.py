"""Our files in diffusers: every layer is found, and where the same network can be made, it draws the same."""

import comfy.utils
import pytest
import torch
from diffusers_terms import network_of
from precision import CLOSE
from unguide.unguide_ops import host
from unguide.unguide_ops.files import lora_file
from unguide.unguide_ops.model_adapter import adapter_for

from dev.bench.reference import relative_error
from dev.families.checks import FamilyCheck
from dev.families.tiny import TINY, WIDTH

if not hasattr(torch, "accelerator"):  # new in torch 2.6, and taken for granted by diffusers 0.41
    pytest.skip("diffusers needs torch 2.6 or later", allow_module_level=True)
import diffusers  # noqa: E402

BY_NAME = {it.name: it for it in TINY}
PASSED_BY = "lora_unet_add_embedding_linear_1"  # which diffusers does not read under kohya's names
UNET = {
    "sample_size": 8, "layers_per_block": 1, "down_block_types": ["CrossAttnDownBlock2D"] * 2,
    "up_block_types": ["CrossAttnUpBlock2D"] * 2, "cross_attention_dim": WIDTH,
}  # fmt: skip
UNETS = {"StableDiffusion": {"block_out_channels": [32, 64], "attention_head_dim": 8}, "StableDiffusionXL": {
    "block_out_channels": [64, 128], "attention_head_dim": [1, 2], "transformer_layers_per_block": [1, 2],
    "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 1536 + WIDTH,
}}  # fmt: skip
HEADS = {"num_attention_heads": 2, "attention_head_dim": 32, "joint_attention_dim": WIDTH}
SD3 = {"sample_size": 8, "in_channels": 16, "out_channels": 16, "num_layers": 2, "num_attention_heads": 2,
       "attention_head_dim": 64, "joint_attention_dim": WIDTH, "caption_projection_dim": 128,
       "pooled_projection_dim": WIDTH, "pos_embed_max_size": 32}  # fmt: skip
FLUX = {"in_channels": 64, "num_layers": 2, "num_single_layers": 1, "axes_dims_rope": [4, 14, 14], **HEADS}
TRANSFORMERS = {
    "SD3": ("SD3", SD3),
    "Flux dev": ("Flux", {**FLUX, "pooled_projection_dim": WIDTH, "guidance_embeds": True}),
    "Chroma": ("Chroma", {**FLUX, "approximator_num_channels": 64, "approximator_hidden_dim": 64,
                          "approximator_layers": 2}),
    "Flux 2": ("Flux2", {**FLUX, "in_channels": 128, "axes_dims_rope": [8, 8, 8, 8]}),
    "AuraFlow": ("AuraFlow", {"sample_size": 16, "num_mmdit_layers": 2, "num_single_dit_layers": 1,
                              "attention_head_dim": 64, "num_attention_heads": 2, "joint_attention_dim": WIDTH,
                              "caption_projection_dim": 128, "pos_embed_max_size": 256}),
    "Z-Image": ("ZImage", {"in_channels": 16, "dim": 256, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 8,
                           "n_kv_heads": 8, "cap_feat_dim": WIDTH, "axes_dims": [8, 12, 12],
                           "axes_lens": [300, 32, 32]}),
    "Qwen-Image": ("QwenImage", {"in_channels": 64, "num_layers": 2, "axes_dims_rope": [8, 12, 12], **HEADS}),
    "HiDream": ("HiDreamImage", {
        "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 1, "num_single_layers": 1,
        "attention_head_dim": 32, "num_attention_heads": 2, "caption_channels": [WIDTH, WIDTH], "text_emb_dim": WIDTH,
        "num_routed_experts": 2, "num_activated_experts": 1, "axes_dims_rope": [8, 12, 12],
        "max_resolution": [32, 32], "llama_layers": [0, 1]}),
    "Wan 2.1": ("Wan", {"num_attention_heads": 2, "attention_head_dim": 32, "text_dim": WIDTH, "freq_dim": 64,
                        "ffn_dim": 128, "num_layers": 2}),
}  # fmt: skip
"""Left out: Lumina 2, whose converter in diffusers knows the full-size model's widths alone; PixArt, Hunyuan-DiT and
Cosmos-Predict2, for which it has none."""


@pytest.fixture(autouse=True)
def as_in_diffusers():
    with torch.inference_mode(False), torch.no_grad():
        yield


def load_into(network, kind: str, proof: FamilyCheck, folder) -> None:
    """The LoRA's file by diffusers' own pipeline, of which only the network is there."""
    lora_file.save_lora(folder / "it.safetensors", proof.lora)
    pipeline = getattr(diffusers, f"{kind}Pipeline")
    required, optional = pipeline._get_signature_keys(pipeline)
    parts = dict.fromkeys(required, None) | {"unet" if kind in UNETS else "transformer": network}
    more = {"requires_safety_checker": False} if "requires_safety_checker" in optional else {}
    pipeline(**parts, **more).load_lora_weights(str(folder / "it.safetensors"))


def weights_of(proof, names) -> dict[str, torch.Tensor]:
    """The host's weights under diffusers' names: a name, or a name with the rows and a function."""
    ours = host.diffusion_model(proof.model).state_dict()
    found = {}
    for theirs, key in names.items():
        name, rows, function = (*((key,) if isinstance(key, str) else key), None, None)[:3]
        if name in ours:
            weight = ours[name] if rows is None else ours[name].narrow(*rows)
            found[theirs] = function(weight) if function else weight
    return found


def ours_with_the_lora(proof, *args, **kwargs):
    network = network_of(proof.model)
    adapter = adapter_for(proof.model, proof.lora)
    with adapter.attached(network), adapter.on():
        return network(*args, **kwargs)


@pytest.mark.parametrize(("name", "kind"), [("SD 1.x", "StableDiffusion"), ("SDXL", "StableDiffusionXL")])
def test_a_unet_draws_the_same(tmp_path, name, kind):
    unet, proof = diffusers.UNet2DConditionModel(**UNET, **UNETS[kind]), FamilyCheck(BY_NAME[name])
    weights = weights_of(proof, comfy.utils.unet_to_diffusers(proof.model.model.model_config.unet_config))
    unet.load_state_dict({key.replace("class_embedding", "add_embedding"): it for key, it in weights.items()})
    where = {"device": proof.model.load_device}
    unet.to(**where)
    x, t, text = torch.randn(2, 4, 8, 8, **where), torch.tensor([10, 500], **where), torch.randn(2, 7, WIDTH, **where)
    added, y = None, None
    if name == "SDXL":
        added = {"text_embeds": torch.randn(2, WIDTH, **where), "time_ids": torch.full((2, 6), 64.0, **where)}
        y = torch.cat([added["text_embeds"], unet.add_time_proj(added["time_ids"].flatten()).reshape(2, -1)], 1)

    def theirs():
        return unet(x, t, encoder_hidden_states=text, added_cond_kwargs=added).sample

    plain = theirs()
    assert relative_error(network_of(proof.model)(x, t, context=text, y=y), plain) < CLOSE
    load_into(unet, kind, proof, tmp_path)
    assert bool(proof.lora.pairs.pop(PASSED_BY, None)) == (name == "SDXL")
    assert relative_error(ours_with_the_lora(proof, x, t, context=text, y=y), theirs()) < CLOSE
    assert relative_error(theirs(), plain) > 1e-3


def test_sd3_draws_the_same(tmp_path):
    network, proof = diffusers.SD3Transformer2DModel(**SD3), FamilyCheck(BY_NAME["SD3"])
    names = comfy.utils.mmdit_to_diffusers(proof.model.model.model_config.unet_config)
    network.load_state_dict(weights_of(proof, names))
    network.to(proof.model.load_device)
    x, text, pooled, t = (
        it.to(proof.model.load_device)
        for it in (torch.randn(1, 16, 8, 8), torch.randn(1, 7, WIDTH), torch.randn(1, WIDTH), torch.tensor([500.0]))
    )

    def theirs():
        return network(hidden_states=x, encoder_hidden_states=text, pooled_projections=pooled, timestep=t).sample

    plain = theirs()
    assert relative_error(network_of(proof.model)(x, t, context=text, y=pooled), plain) < CLOSE
    load_into(network, "StableDiffusion3", proof, tmp_path)
    assert relative_error(ours_with_the_lora(proof, x, t, context=text, y=pooled), theirs()) < CLOSE
    assert relative_error(theirs(), plain) > 1e-3


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_diffusers_finds_every_changed_row(name, tmp_path):
    """The change of the weights in diffusers' layers is ours, row by row."""
    kind, settings = TRANSFORMERS[name]
    network = getattr(diffusers, f"{kind}Transformer{'3D' if kind == 'Wan' else '2D'}Model")(**settings)
    pipeline = {"SD3": "StableDiffusion3"}.get(kind, kind)
    proof = FamilyCheck(BY_NAME[name])
    load_into(network, pipeline, proof, tmp_path)
    theirs = [
        it.lora_B["default_0"].weight @ it.lora_A["default_0"].weight * it.scaling["default_0"]
        for it in network.modules()
        if hasattr(it, "lora_A") and "default_0" in it.lora_A
    ]
    ours = [pair.scale * pair.up @ pair.down for pair in proof.lora.pairs.values()]
    assert ours and torch.allclose(rows_of(ours), rows_of(theirs), atol=1e-6)


def rows_of(changes) -> torch.Tensor:
    """Length and first elements of all rows that are not zero, sorted."""
    found = [torch.cat([row.norm()[None], row[:4]]) for it in changes for row in it if row.any()]
    return torch.stack(sorted(found, key=lambda row: row.tolist()))
