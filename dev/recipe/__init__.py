"""`python dev recipe`: remakes the embedded model and its judges from icon sets and a sentence model.

The stages text (20 minutes on two cores) and autoencoder (5) are independent of each other; unet (90) needs both;
judges (15) need the pictures alone. Everything is made in `.dev/recipe`, and copied into the pack by `install`.

`python dev recipe families` remakes the models of other families (dev/families/trained) with the embedded encoders; it
is for a GPU (`--device cuda`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path

from unguide.unguide_ops.files.atomic import write_whole

from dev import ROOT
from dev.console import DevError, say
from dev.device import CPU, DEVICES, VARIABLE, require
from dev.environment import HOME

NEEDS = ("recipe",)  # further sections of pins.ini
FOLDER = HOME / "recipe"
STAGES = ("text", "autoencoder", "unet", "judges", "install")
FAMILIES = "families"
MODEL_FILES = ("config.json", "text_encoder.safetensors", "unet.safetensors", "vae.safetensors")
JUDGE_FILES = ("judges.json", "a.safetensors", "b.safetensors")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `recipe`."""
    listed = f"some of {', '.join(STAGES)} (default: all of these), or {FAMILIES}"
    parser.add_argument("stages", nargs="*", metavar="stage", help=listed)
    families = parser.add_argument_group(FAMILIES)
    families.add_argument("--family", nargs="+", metavar="NAME", help="these alone, as sd3 (default: all)")
    families.add_argument("--steps", type=int, help="of training (default: as many as each needs from nothing)")
    families.add_argument("--batch", type=int, default=256, help="pictures a step (default: 256)")
    families.add_argument("--pool", type=int, default=130_000, help="pictures to draw (default: 130000)")
    families.add_argument("--resume", action="store_true", help="go on from the weights in the repository")
    families.add_argument("--device", choices=DEVICES, default=CPU, help="where to train (default: cpu)")


def run(options: argparse.Namespace) -> int:
    """Run the stages in their order."""
    unknown = set(options.stages) - {*STAGES, FAMILIES}
    if unknown:
        raise DevError(f"there is no stage {min(unknown)!r}: choose from {', '.join((*STAGES, FAMILIES))}.")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        if stage in (options.stages or STAGES):
            say(f"{stage} ...")
            make(stage)
    if FAMILIES in options.stages:
        make_families(options)
    return 0


def make_families(options: argparse.Namespace) -> None:
    """Train the families' models, each into its file in dev/families/trained."""
    from dev.families.trained import FOLDER as WEIGHTS
    from dev.families.trained import TRAINED
    from dev.recipe import families

    if unknown := {*(options.family or ())} - set(TRAINED):
        raise DevError(f"there is no family {min(unknown)!r}: choose from {', '.join(TRAINED)}.")
    require(options.device)
    os.environ[VARIABLE] = options.device
    pool = families.draw_pool(options.pool, seed=0)
    for name in options.family or TRAINED:
        steps = options.steps or families.STEPS[name]
        families.train(name, WEIGHTS, pool, families.Options(steps, options.batch, options.resume))


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
