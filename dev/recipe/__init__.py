"""`python dev recipe`: remakes the embedded model and its judges from icon sets and a sentence model.

The stages text (20 minutes on two cores) and autoencoder (5) are independent of each other; unet (90) needs both;
judges (15) need the pictures alone. Everything is made in `.dev/recipe`, and copied into the pack by `install`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from unguide.unguide_ops.files.atomic import write_whole

from dev import ROOT
from dev.console import DevError, say
from dev.environment import HOME

NEEDS = ("recipe",)  # further sections of pins.ini
FOLDER = HOME / "recipe"
STAGES = ("text", "autoencoder", "unet", "judges", "install")
MODEL_FILES = ("config.json", "text_encoder.safetensors", "unet.safetensors", "vae.safetensors")
JUDGE_FILES = ("judges.json", "a.safetensors", "b.safetensors")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `recipe`."""
    parser.add_argument("stages", nargs="*", metavar="stage", help=f"some of {', '.join(STAGES)} (default: all)")


def run(options: argparse.Namespace) -> int:
    """Run the stages in their order."""
    unknown = set(options.stages) - set(STAGES)
    if unknown:
        raise DevError(f"there is no stage {min(unknown)!r}: choose from {', '.join(STAGES)}.")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        if stage in (options.stages or STAGES):
            say(f"{stage} ...")
            make(stage)
    return 0


def make(stage: str) -> None:
    """Run one stage."""
    from dev.recipe import autoencoder, judges, text_encoder, unet  # they need torch

    if stage == "text":
        text_encoder.train(FOLDER, minutes=8.5)
    elif stage == "autoencoder":
        say(f"PSNR in dB: {autoencoder.train(FOLDER, minutes=4.5)}")
    elif stage == "unet":
        write_config(FOLDER)
        unet.train(FOLDER)
    elif stage == "judges":
        for which in ("a", "b"):
            judges.train(which, FOLDER / "judges")
    else:
        for name in MODEL_FILES:
            shutil.copyfile(FOLDER / name, ROOT / "demo_model" / name)
        for name in JUDGE_FILES:
            shutil.copyfile(FOLDER / "judges" / name, ROOT / "demo_model" / "judges" / name)


def write_config(folder: Path) -> None:
    """Write the model's config.json from the configurations of its parts."""
    from dev.recipe.sprites import load_things
    from dev.recipe.unet import CONFIG

    text, vae = (json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("text", "vae"))
    unet = {**CONFIG, "in_channels": vae["channels"], "out_channels": vae["channels"]}
    unet["context_dim"] = text["hidden_size"]
    concepts = {name: thing["words"] for name, thing in load_things()["things"].items()}
    config = {"unet": unet, "text": text, "vae": vae, "concepts": concepts}
    write_whole(folder / "config.json", (json.dumps(config, indent=1) + "\n").encode())
