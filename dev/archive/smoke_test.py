"""Install an archive as the Manager does, into a ComfyUI without other packs, and try the pack through the HTTP API."""

from __future__ import annotations

import json
import tempfile
import urllib.error
import zipfile
from pathlib import Path
from urllib.parse import quote

from dev.client import Graph, run_graph, title_of
from dev.console import DevError
from dev.demo_graph import GATE, SAMPLING, GraphBuilder, train
from dev.environment import make_folders
from dev.server import HostServer, request

ERASED, PRESERVED = "cat", "dog"
LORA = "unguide/forgotten_00001_.safetensors"
ROUTES = {"extensions": "web", "api/workflow_templates": "workflows"}  # route -> the pack's folder


def smoke_test(host: Path, archive: Path, folder: str) -> str:
    """Try the pack, installed as custom_nodes/`folder`; returns what worked, DevError if something did not."""
    with tempfile.TemporaryDirectory() as base:
        pack = install(archive, Path(base), folder)
        with HostServer(host, base, args=["--verbose", "WARNING"]) as server:
            start = server.log_tail(10_000)
            nodes = check_nodes(server, pack)
            files = check_files(server.url, pack)
            run_graph(server.url, training_graph(ERASED))
            judged = check_pictures(server.url)
            run = server.log_tail(10_000)[len(start) :]
    complaints = [line for line in start.splitlines() if folder in line]
    complaints += [line for line in run.splitlines() if line.strip() and "%|" not in line]  # less progress bars
    if complaints:
        raise DevError("ComfyUI's log has complaints:\n" + "\n".join(complaints))
    return f"{nodes} nodes, {files} files served, {judged}"


def install(archive: Path, base: Path, folder: str) -> Path:
    """Unpack the archive into a new base directory; returns the pack's folder."""
    make_folders(base)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(base / "custom_nodes" / folder)
    return base / "custom_nodes" / folder


def check_nodes(server: HostServer, pack: Path) -> int:
    """The number of nodes; DevError unless each has its help page, and its texts in every language."""
    documented = {page.stem for page in (pack / "web" / "docs").glob("*.md")}
    server.require_nodes(sorted(documented))
    nodes = {name for name, node in server.schemas().items() if node["python_module"] == f"custom_nodes.{pack.name}"}
    texts = json.loads(request(f"{server.url}/api/i18n"))
    for language in (folder.name for folder in (pack / "locales").iterdir()):
        if incomplete := (nodes ^ documented) | (nodes ^ texts[language]["nodeDefs"].keys()):
            raise DevError(f"no node with a help page and texts in {language}: {', '.join(sorted(incomplete))}.")
    return len(nodes)


def check_files(url: str, pack: Path) -> int:
    """The number of files that the front end gets from the pack's routes: help, pictures, scripts, workflows."""
    addresses = {
        f"{url}/{route}/{quote(pack.name)}/{file.relative_to(pack / folder).as_posix()}": file
        for route, folder in ROUTES.items()
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
    templates = json.loads(request(f"{url}/api/workflow_templates")).get(pack.name, [])
    if set(templates) != {file.stem for file in (pack / "workflows").glob("*.json")}:
        raise DevError(f"the workflows that ComfyUI lists are others than the pack's: {templates}")
    return len(addresses)


def check_pictures(url: str) -> str:
    """Draw by UnGuidance; DevError unless the judges see that the concept is gone and the other thing is not."""
    things = ERASED, PRESERVED
    graph = drawing_graph(list(things))
    outputs = {title_of(graph, node): output for node, output in run_graph(url, graph).items()}
    shares = {thing: json.loads(outputs[f"judged {thing}"]["text"][0])["accuracies"]["top_1"] for thing in things}
    recognised = ", ".join(f"{thing} {share:.0%}" for thing, share in shares.items())
    if shares != {ERASED: 0, PRESERVED: 1}:
        raise DevError(f"{ERASED} should be forgotten and {PRESERVED} not, but the judges recognise: {recognised}")
    return f"recognised after forgetting: {recognised}"


def training_graph(concept: str, reference: str = "") -> Graph:
    """Forget a concept on the embedded model, and save the LoRA."""
    build = GraphBuilder()
    lora, *_ = train(build, concept, *build.model(), reference=reference)
    build.add("UnGuideSaveLoRA", lora=lora, filename_prefix=LORA.removesuffix("_00001_.safetensors"))
    return build.graph


def drawing_graph(things: list[str], pictures: int = 4) -> Graph:
    """Draw photos of things by UnGuidance with the saved LoRA, save them, and let the judges classify them."""
    build = GraphBuilder()
    model, clip, vae = build.model()
    lora = [build.add("UnGuideLoadLoRA", lora_name=LORA), 0]
    shared = {
        "model": model, "lora": lora, "negative": build.encode(clip, ""), "latent_image": build.empty_latent(pictures),
        **GATE, **SAMPLING,
    }  # fmt: skip
    for thing in things:
        prompt = f"a photo of the {thing}"
        sampled = build.add("UnGuidanceKSampler", positive=build.encode(clip, prompt), **shared)
        images = [build.add("VAEDecode", samples=[sampled, 0], vae=vae), 0]
        build.add("SaveImage", images=images, filename_prefix=thing)
        judged = build.add("UnGuideEvaluate", images=images, prompt=prompt, expected=thing, classes="\n".join(things),
                           classifier="demo judges", nudity=False)  # fmt: skip
        build.add("PreviewAny", f"judged {thing}", source=[judged, 1])
    return build.graph
