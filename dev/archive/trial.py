"""An archive installed as the Manager does it, into a ComfyUI without other packs, and tried through the HTTP API."""

from __future__ import annotations

import json
import tempfile
import urllib.error
import zipfile
from pathlib import Path
from urllib.parse import quote

from dev.client import Graph, run_graph, title_of
from dev.demo_graph import GATE, PRESET, SAMPLING, SIZE, GraphBuilder
from dev.environment import make_folders
from dev.server import HostServer, request
from dev.stages import DevError

FORGOTTEN, KEPT = "cat", "dog"
LORA = "unguide/forgotten_00001_.safetensors"
SERVED = {"extensions": "web", "api/workflow_templates": "workflows"}  # route -> the pack's folder


def try_out(host: Path, archive: Path, folder: str) -> str:
    """What was seen when the pack worked, installed as custom_nodes/`folder`; DevError if it did not."""
    with tempfile.TemporaryDirectory() as base:
        pack = install(archive, Path(base), folder)
        with HostServer(host, base, args=["--verbose", "WARNING"]) as server:
            at_start = server.log_tail(10_000)
            nodes = check_nodes(server, pack)
            files = check_files(server.url, pack)
            run_graph(server.url, training_graph(FORGOTTEN))
            seen = check_pictures(server.url)
            meanwhile = server.log_tail(10_000)[len(at_start) :]
    said = [line for line in at_start.splitlines() if folder in line]
    said += [line for line in meanwhile.splitlines() if line.strip() and "%|" not in line]  # less progress bars
    if said:
        raise DevError("ComfyUI's log has complaints:\n" + "\n".join(said))
    return f"{nodes} nodes, {files} files served, {seen}"


def install(archive: Path, base: Path, folder: str) -> Path:
    """The pack's folder, unpacked into a new base directory."""
    make_folders(base)
    with zipfile.ZipFile(archive) as it:
        it.extractall(base / "custom_nodes" / folder)
    return base / "custom_nodes" / folder


def check_nodes(server: HostServer, pack: Path) -> int:
    """How many nodes are there, each with its help page and its texts in every language."""
    ids = {page.stem for page in (pack / "web" / "docs").glob("*.md")}
    server.require_nodes(sorted(ids))
    offered = server.schemas()
    ours = {name for name, node in offered.items() if node["python_module"] == f"custom_nodes.{pack.name}"}
    texts = json.loads(request(f"{server.url}/api/i18n"))
    for language in (it.name for it in (pack / "locales").iterdir()):
        if odd := (ours ^ ids) | (ours ^ texts[language]["nodeDefs"].keys()):
            raise DevError(f"no node with a help page and texts in {language}: {', '.join(sorted(odd))}.")
    return len(ids)


def check_files(url: str, pack: Path) -> int:
    """How many files the front end gets where it asks for them: help, pictures, scripts, workflows."""
    addresses = {
        f"{url}/{route}/{quote(pack.name)}/{file.relative_to(pack / folder).as_posix()}": file
        for route, folder in SERVED.items()
        for file in (pack / folder).rglob("*")
        if file.is_file()
    }
    for address, file in addresses.items():
        try:
            served = request(address)
        except urllib.error.HTTPError as error:
            raise DevError(f"{address}: {error}") from None
        if served != file.read_bytes():
            raise DevError(f"{address} is another file than {file}.")
    listed = json.loads(request(f"{url}/api/workflow_templates")).get(pack.name, [])
    if set(listed) != {it.stem for it in (pack / "workflows").glob("*.json")}:
        raise DevError(f"the workflows that ComfyUI lists are others than the pack's: {listed}")
    return len(addresses)


def check_pictures(url: str) -> str:
    """What the judges say of pictures by UnGuidance: the concept is gone, the other thing is there."""
    graph = drawing_graph([FORGOTTEN, KEPT])
    ran = {title_of(graph, node): shown for node, shown in run_graph(url, graph).items()}
    shares = {it: json.loads(ran[f"judged {it}"]["text"][0])["accuracies"]["top_1"] for it in (FORGOTTEN, KEPT)}
    said = ", ".join(f"{thing} {share:.0%}" for thing, share in shares.items())
    if shares != {FORGOTTEN: 0, KEPT: 1}:
        raise DevError(f"{FORGOTTEN} should be forgotten and {KEPT} not, but the judges recognise: {said}")
    return f"recognised after forgetting: {said}"


def training_graph(concept: str, reference: str = "") -> Graph:
    """Forget a concept on the embedded model, and save the LoRA."""
    build = GraphBuilder()
    model, clip, vae = build.model()
    idea = build.add(
        "UnGuideConcept", clip=clip, preset=concept, target="", reference=reference, synonyms="", preserve=""
    )
    trained = build.add("UnGuideTrainLoRA", model=model, concept=[idea, 0], vae=vae, preset=PRESET, seed=0, **SIZE)
    build.add("UnGuideSaveLoRA", lora=[trained, 0], filename_prefix=LORA.removesuffix("_00001_.safetensors"))
    return build.graph


def drawing_graph(things: list[str], pictures: int = 4) -> Graph:
    """Photos of things by UnGuidance with the saved LoRA, saved, and what the judges take them for."""
    build = GraphBuilder()
    model, clip, vae = build.model()
    lora = [build.add("UnGuideLoadLoRA", lora_name=LORA), 0]
    negative = [build.add("CLIPTextEncode", clip=clip, text=""), 0]
    latent = [build.add("EmptyLatentImage", batch_size=pictures, **SIZE), 0]
    for thing in things:
        prompt = f"a photo of the {thing}"
        positive = [build.add("CLIPTextEncode", clip=clip, text=prompt), 0]
        sampled = build.add("UnGuidanceKSampler", model=model, lora=lora, positive=positive, negative=negative,
                            latent_image=latent, **GATE, **SAMPLING)  # fmt: skip
        images = [build.add("VAEDecode", samples=[sampled, 0], vae=vae), 0]
        build.add("SaveImage", images=images, filename_prefix=thing)
        judged = build.add("UnGuideEvaluate", images=images, prompt=prompt, expected=thing, classes="\n".join(things),
                           classifier="demo judges", nudity=False)  # fmt: skip
        build.add("PreviewAny", f"judged {thing}", source=[judged, 1])
    return build.graph
