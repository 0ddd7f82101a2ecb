"""`python dev recipe`: remakes the embedded model and its judges from icon sets and a sentence model.

text (20 minutes on two cores) and autoencoder (5) know nothing of each other; unet (90) needs both; judges (15) need
the pictures alone. Everything is made in `.dev/recipe`, and copied into the pack by `install`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from dev.environment import HOME, ROOT
from dev.stages import say

NEEDS = ("recipe",)  # further sections of pins.ini
FOLDER = HOME / "recipe"
STAGES = ("text", "autoencoder", "unet", "judges", "install")
MODEL_FILES = ("config.json", "text_encoder.safetensors", "unet.safetensors", "vae.safetensors")
JUDGE_FILES = ("judges.json", "a.safetensors", "b.safetensors")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `recipe`."""
    parser.add_argument("stages", nargs="*", metavar="stage", help=f"some of {', '.join(STAGES)} (default: all)")


def run(options: argparse.Namespace) -> int:
    """Run the stages in their order; 0 when all are done."""
    from dev.stages import DevError

    unknown = set(options.stages) - set(STAGES)
    if unknown:
        raise DevError(f"there is no stage {min(unknown)!r}: choose from {', '.join(STAGES)}.")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        if stage in (options.stages or STAGES):
            say(f"{stage} ...")
            globals()[f"make_{stage}"](options)
    return 0


def make_text(options: argparse.Namespace) -> None:
    """The text encoder."""
    from dev.recipe import text_encoder

    text_encoder.train(FOLDER, minutes=8.5)


def make_autoencoder(options: argparse.Namespace) -> None:
    """The autoencoder."""
    from dev.recipe import autoencoder

    say(f"PSNR in dB: {autoencoder.train(FOLDER, minutes=4.5)}")


def make_unet(options: argparse.Namespace) -> None:
    """The UNet, once the encoders' configuration is known."""
    from dev.recipe import unet

    write_config(FOLDER)
    unet.train(FOLDER)


def make_judges(options: argparse.Namespace) -> None:
    """Both judges."""
    from dev.recipe import judges

    for which in ("a", "b"):
        judges.train(which, FOLDER / "judges")


def make_install(options: argparse.Namespace) -> None:
    """Copy what was made into the pack."""
    for files, source, target in (
        (MODEL_FILES, FOLDER, ROOT / "demo_model"),
        (JUDGE_FILES, FOLDER / "judges", ROOT / "dev" / "judge"),
    ):
        for name in files:
            shutil.copyfile(source / name, target / name)


def write_config(folder: Path) -> None:
    """The model's config.json from its parts'."""
    from dev.recipe.sprites import load_things
    from dev.recipe.unet import CONFIG

    text, vae = (json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("text", "vae"))
    unet = {**CONFIG, "in_channels": vae["channels"], "out_channels": vae["channels"]}
    unet["context_dim"] = text["hidden_size"]
    concepts = {name: thing["words"] for name, thing in load_things()["things"].items()}
    config = {"unet": unet, "text": text, "vae": vae, "concepts": concepts}
    part = folder / "config.part"
    part.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    part.replace(folder / "config.json")
