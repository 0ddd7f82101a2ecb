"""The workflows that ship with the pack. All run on the embedded model as they are, but the one for a checkpoint."""

from __future__ import annotations

from collections.abc import Callable

from dev.workflows.canvas import BLUE, GREEN, VIOLET, Canvas, Node

SIZE = {"width": 64, "height": 64}
SAMPLING = {"seed": 0, "steps": 20, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
PROBE, TRAINER, SAMPLER, GUIDER, UNGUIDANCE, SAVER = (
    800,
    640,
    560,
    380,
    320,
    130,
)  # pixels high, with all that they show
MUSHROOM = "a photo of the mushroom"  # drawn in the cat's place
HAMBURGER = "a photo of the hamburger"  # in the dog's; these two come out clear
CAT_FILE = "unguide/cat_00001_.safetensors"
CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
CONTROL_NET = "control_v11p_sd15_canny_fp16.safetensors"
CHECKPOINT_FILE = {
    "name": CHECKPOINT, "directory": "checkpoints",
    "url": f"https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/{CHECKPOINT}?download=true",
}  # fmt: skip


def text(canvas: Canvas, column: int, clip, words, title: str) -> tuple[Node, int]:
    """An encoded prompt."""
    return canvas.add("CLIPTextEncode", column, title, clip=clip, text=words)[0]


def asked(canvas: Canvas, column: int, clip, words, title: str, batch: int) -> dict:
    """What a sampler node is given beside its MODEL: prompts, an empty latent, and the settings."""
    return {
        "positive": text(canvas, column, clip, words, title),
        "negative": text(canvas, column, clip, "", "Negative prompt"),
        "latent_image": canvas.add("EmptyLatentImage", column, batch_size=batch, **SIZE)[0],
        **SAMPLING,
    }


def shown(canvas: Canvas, column: int, latent, vae, title: str) -> tuple[Node, int]:
    """Decoded, and on the canvas."""
    pictures = canvas.add("VAEDecode", column, samples=latent, vae=vae)[0]
    canvas.add("PreviewImage", column, title, images=pictures)
    return pictures


def forget_the_cat(canvas: Canvas) -> None:
    """Try it in a minute."""
    canvas.note(0, "forget-the-cat", 330)
    demo = canvas.add("UnGuideDemoModel", 1)
    concept = canvas.add("UnGuideConcept", 1, clip=demo[1], preset="cat", reference=MUSHROOM)
    trained = canvas.add("UnGuideTrainLoRA", 2, model=demo[0], concept=concept[0], vae=demo[2], tall=TRAINER, **SIZE)
    canvas.add("UnGuideSaveLoRA", 1, tall=SAVER, lora=trained[0], filename_prefix="unguide/cat")
    prompts = "a photo of the cat\na photo of the feline\na photo of the dog\na photo of the automobile"
    probe = canvas.add("UnGuideStabilityProbe", 3, "Which prompts mean it?", tall=PROBE, model=demo[0], lora=trained[0],
                       clip=demo[1], prompts=prompts, **SIZE)  # fmt: skip
    its = asked(canvas, 4, demo[1], probe[4], "Each prompt", 2)
    plain = canvas.add("KSampler", 4, "KSampler, base model", model=demo[0], **its)
    steered = canvas.add("UnGuidanceKSampler", 5, tall=SAMPLER, model=demo[0], lora=trained[0], **its)
    shown(canvas, 6, plain[0], demo[2], "Base model")
    shown(canvas, 6, steered[0], demo[2], "UnGuidance")
    canvas.group("1  What to forget, and a LoRA that forgets it", 1, 2, BLUE)
    canvas.group("2  Which prompts mean it?", 3, 3, GREEN)
    canvas.group("3  Each prompt, with and without", 4, 6, VIOLET)


def forget_from_your_checkpoint(canvas: Canvas) -> None:
    """Erase a concept from a real model."""
    canvas.note(0, "forget-from-your-checkpoint", 380)
    loaded = canvas.add("CheckpointLoaderSimple", 1, ckpt_name=CHECKPOINT, models=[CHECKPOINT_FILE])
    concept = canvas.add(
        "UnGuideConcept", 1, clip=loaded[1], preset="custom", target="a photo of a cat",
        reference="a photo of a mushroom", synonyms="a photo of a kitten\na photo of a feline", tall=440,
    )  # fmt: skip
    trained = canvas.add("UnGuideTrainLoRA", 2, "Before and after", tall=TRAINER, model=loaded[0], concept=concept[0],
                         vae=loaded[2])  # fmt: skip
    canvas.add("PreviewImage", 3, "Loss and erasure", images=trained[1])
    canvas.add("UnGuideSaveLoRA", 3, tall=SAVER, lora=trained[0], filename_prefix="unguide/my-concept")
    canvas.group("1  What to forget", 1, 1, BLUE)
    canvas.group("2  Train", 2, 2, BLUE)
    canvas.group("3  Look, and keep", 3, 3, GREEN)


def draw_without_it(canvas: Canvas) -> None:
    """What is used every day."""
    canvas.note(0, "draw-without-it", 330)
    demo = canvas.add("UnGuideDemoModel", 1)
    lora = canvas.add("UnGuideLoadLoRA", 1, lora_name=CAT_FILE)
    its = asked(canvas, 1, demo[1], "a photo of the cat", "Prompt", 4)
    steered = canvas.add("UnGuidanceKSampler", 2, tall=SAMPLER, model=demo[0], lora=lora[0], **its)
    pictures = canvas.add("VAEDecode", 3, samples=steered[0], vae=demo[2])[0]
    canvas.add("SaveImage", 3, "Without the cat", images=pictures, filename_prefix="unguide/without")
    canvas.group("1  Model, LoRA, prompt", 1, 1, BLUE)
    canvas.group("2  Sampling that avoids the concept", 2, 3, VIOLET)


def inspect_the_gate(canvas: Canvas) -> None:
    """What does the gate take for the concept?"""
    canvas.note(0, "inspect-the-gate", 330)
    demo = canvas.add("UnGuideDemoModel", 1)
    lora = canvas.add("UnGuideLoadLoRA", 1, lora_name=CAT_FILE)
    prompts = "\n".join(
        f"a photo of the {it}" for it in ("cat", "kitten", "feline", "tiger", "dog", "house", "catfish")
    )
    for column, rate, title in ((2, 0.001, "As it is"), (3, 0.05, "One in twenty may be wrong")):
        canvas.add("UnGuideStabilityProbe", column, title, tall=PROBE, model=demo[0], lora=lora[0], clip=demo[1],
                   prompts=prompts, false_positive_rate=rate, **SIZE)  # fmt: skip
    canvas.group("1  Model and LoRA", 1, 1, BLUE)
    canvas.group("2  The same prompts, two thresholds", 2, 3, GREEN)


def two_concepts(canvas: Canvas) -> None:
    """One UnGuidance behind the other."""
    canvas.note(0, "two-concepts", 300)
    demo = canvas.add("UnGuideDemoModel", 1)
    model = demo[0]
    for column, name, reference in ((2, "cat", MUSHROOM), (3, "dog", HAMBURGER)):
        concept = canvas.add(
            "UnGuideConcept", column, f"Forget the {name}", clip=demo[1], preset=name, reference=reference
        )
        trained = canvas.add(
            "UnGuideTrainLoRA", column, model=demo[0], concept=concept[0], grid_steps=0, tall=TRAINER, **SIZE
        )
        model = canvas.add("UnGuidance", 4, f"Without the {name}", tall=UNGUIDANCE, model=model, lora=trained[0])[0]
    negative = text(canvas, 1, demo[1], "", "Negative prompt")
    latent = canvas.add("EmptyLatentImage", 1, batch_size=2, **SIZE)[0]
    for name in ("cat", "dog", "ship"):
        positive = text(canvas, 5, demo[1], f"a photo of the {name}", f"The {name}")
        its = {"positive": positive, "negative": negative, "latent_image": latent, **SAMPLING}
        sampled = canvas.add("KSampler", 5, model=model, **its)
        shown(canvas, 6, sampled[0], demo[2], f"The {name}")
    canvas.group("1  Two LoRAs", 1, 3, BLUE)
    canvas.group("2  A model without both", 4, 4, GREEN)
    canvas.group("3  Any sampler", 5, 6, VIOLET)


def import_a_lora(canvas: Canvas) -> None:
    """Someone's erasing LoRA."""
    canvas.note(0, "import-a-lora", 330)
    demo = canvas.add("UnGuideDemoModel", 1)
    imported = canvas.add("UnGuideImportLoRA", 1, model=demo[0], lora_name=CAT_FILE)
    canvas.add("PreviewAny", 1, "What the file holds", source=imported[1], tall=220)
    concept = canvas.add("UnGuideConcept", 2, "What it forgets", clip=demo[1], preset="cat", reference=MUSHROOM)
    ready = canvas.add("UnGuideCalibrate", 2, "Its gate", tall=540, model=demo[0], lora=imported[0], clip=demo[1],
                       concept=concept[0], **SIZE)  # fmt: skip
    canvas.add("UnGuideSaveLoRA", 2, tall=SAVER, lora=ready[0], filename_prefix="unguide/imported")
    its = asked(canvas, 3, demo[1], "a photo of the cat", "Prompt", 4)
    steered = canvas.add("UnGuidanceKSampler", 3, tall=SAMPLER, model=demo[0], lora=ready[0], **its)
    shown(canvas, 4, steered[0], demo[2], "UnGuidance")
    canvas.group("1  The file", 1, 1, BLUE)
    canvas.group("2  A gate for it", 2, 2, GREEN)
    canvas.group("3  Use it", 3, 4, VIOLET)


def redraw_a_picture(canvas: Canvas) -> None:
    """img2img by SamplerCustomAdvanced, and a ControlNet for those who have one."""
    canvas.note(0, "redraw-a-picture", 400)
    demo = canvas.add("UnGuideDemoModel", 1)
    lora = canvas.add("UnGuideLoadLoRA", 1, lora_name=CAT_FILE)
    its = asked(canvas, 1, demo[1], "a photo of the cat", "Prompt", 1)
    given = shown(canvas, 2, canvas.add("KSampler", 2, model=demo[0], **its | {"seed": 5})[0], demo[2], "A picture")
    edges = canvas.add("Canny", 3, bypassed=True, image=given)
    control = canvas.add("ControlNetLoader", 3, bypassed=True, control_net_name=CONTROL_NET)
    controlled = canvas.add("ControlNetApplyAdvanced", 3, bypassed=True, positive=its["positive"], vae=demo[2],
                            negative=its["negative"], control_net=control[0], image=edges[0])  # fmt: skip
    prompts = {"positive": controlled[0], "negative": controlled[1], "cfg": 7.5}
    custom = {
        "noise": canvas.add("RandomNoise", 4, noise_seed=1)[0],
        "sampler": canvas.add("KSamplerSelect", 4, sampler_name="dpmpp_2m")[0],
        "sigmas": canvas.add("BasicScheduler", 4, model=demo[0], scheduler="karras", steps=20, denoise=0.7)[0],
        "latent_image": canvas.add("VAEEncode", 4, pixels=given, vae=demo[2])[0],
    }
    plain = canvas.add("CFGGuider", 4, model=demo[0], **prompts)
    ours = canvas.add("UnGuidanceGuider", 5, tall=GUIDER, model=demo[0], lora=lora[0], **prompts)
    for guider, title in ((plain, "Base model"), (ours, "UnGuidance")):
        sampled = canvas.add("SamplerCustomAdvanced", 5, title, guider=guider[0], **custom)
        shown(canvas, 6, sampled[0], demo[2], f"Redrawn: {title}")
    canvas.group("1  Model, LoRA, prompt", 1, 1, BLUE)
    canvas.group("2  A picture to redraw", 2, 2, BLUE)
    canvas.group("3  ControlNet (bypassed)", 3, 3, GREEN)
    canvas.group("4  Redrawn, with and without", 4, 6, VIOLET)


def batch_from_a_list(canvas: Canvas) -> None:
    """Many prompts, and what a classifier sees."""
    canvas.note(0, "batch-from-a-list", 330)
    demo = canvas.add("UnGuideDemoModel", 1)
    lora = canvas.add("UnGuideLoadLoRA", 1, lora_name=CAT_FILE)
    rows = canvas.add("UnGuidePromptList", 1, file="everyday.csv (ships with UnGuide)", limit=6)
    its = asked(canvas, 2, demo[1], rows[0], "Each prompt", 1) | {"seed": rows[1], "cfg": rows[2]}
    steered = canvas.add("UnGuidanceKSampler", 2, tall=SAMPLER, model=demo[0], lora=lora[0], **its)
    pictures = canvas.add("VAEDecode", 3, samples=steered[0], vae=demo[2])[0]
    canvas.add("SaveImage", 3, "Each row, under its own name", images=pictures, filename_prefix=rows[4])
    canvas.add("UnGuideEvaluate", 4, "What they show", tall=600, images=pictures, prompt=rows[0], expected="cat",
               classes="cat\ndog\nhorse\nfrog\nbird\ndeer\nmushroom")  # fmt: skip
    canvas.group("1  Model, LoRA, list", 1, 1, BLUE)
    canvas.group("2  Each row", 2, 2, VIOLET)
    canvas.group("3  Keep, and look", 3, 4, GREEN)


WORKFLOWS: dict[str, Callable[[Canvas], None]] = {
    "forget-the-cat": forget_the_cat,
    "forget-from-your-checkpoint": forget_from_your_checkpoint,
    "draw-without-it": draw_without_it,
    "inspect-the-gate": inspect_the_gate,
    "two-concepts": two_concepts,
    "import-a-lora": import_a_lora,
    "batch-from-a-list": batch_from_a_list,
    "redraw-a-picture": redraw_a_picture,
}
"""By file name, in the order in which a newcomer may want them."""


def drawn(name: str, schemas: dict[str, dict]) -> Canvas:
    """One of them, for a host that offers these nodes."""
    canvas = Canvas(name, schemas)
    WORKFLOWS[name](canvas)
    return canvas
