"""The workflows that ship: each is what `python dev workflows` would write, and runs on the embedded model."""

import io
import json

import pytest
from PIL import Image
from real_host import REPOSITORY
from safetensors.torch import save_file

from dev.client import fetch_image, run_graph
from dev.composition.control_nets import control_net_of
from dev.workflows import on_the_demo_model
from dev.workflows.canvas import NOTE
from dev.workflows.shipped import CONTROL_NET, WORKFLOWS, drawn

FILES = sorted((REPOSITORY / "workflows").glob("*.json"))
ITERATIONS = 30  # enough for the gate to know the cat


def ours(node):
    return node["type"].startswith("UnGui")


def test_each_file_that_ships_is_a_workflow_of_these_with_a_picture():
    assert {path.stem for path in FILES} == WORKFLOWS.keys()
    assert all(path.with_suffix(".jpg").is_file() for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_what_would_be_written_of_the_nodes_as_they_are(schemas, path):
    workflow, written = json.loads(path.read_text(encoding="utf-8")), drawn(path.stem, schemas).ui()
    assert [node for node in workflow["nodes"] if ours(node)] == [node for node in written["nodes"] if ours(node)]
    nodes = {node["id"]: node for node in workflow["nodes"] if node["type"] != NOTE}
    for node in nodes.values():  # newer hosts give their own nodes more
        schema = schemas[node["type"]]
        required = schema["input"].get("required", {}).keys()
        slots = {slot["name"] for slot in node["inputs"]}
        assert required <= slots <= required | schema["input"].get("optional", {}).keys()
        assert [slot["type"] for slot in node["outputs"]] == schema["output"][: len(node["outputs"])]
    for _, source, source_slot, target, target_slot, kind in workflow["links"]:
        given = nodes[source]["outputs"][source_slot]["type"]
        assert kind == given and nodes[target]["inputs"][target_slot]["type"] in (given, "*")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_runs_to_its_pictures(server, schemas, name):
    """In the order in which they ship: later ones take the LoRA that the first one saves."""
    graph = on_the_demo_model(drawn(name, schemas).api())
    for it in graph.values():
        if it["class_type"] == "UnGuideTrainLoRA":
            it["inputs"] |= {"preset": "custom", "iterations": ITERATIONS, "grid_steps": 0}
    ran = run_graph(server.url, graph)
    shows = ("PreviewImage", "SaveImage", "UnGuideStabilityProbe", "UnGuideEvaluate", "UnGuideCalibrate")
    pictures = [node for node, it in graph.items() if it["class_type"] in shows]
    assert pictures and all(ran[node]["images"] for node in pictures)
    steered = [json.loads(text) for out in ran.values() for text in out.get("text", ()) if '"decisions"' in text]
    asked = [it["w"] for report in steered for it in report["decisions"]]
    assert -1.0 in asked or "UnGuidanceKSampler" not in str(graph)  # each that has one draws a cat with it


def test_the_redrawn_picture_takes_a_control_net(server, schemas, model):
    """As after Ctrl+B on the green group, with a file as ControlNets come."""
    folder = server.base / "models" / "controlnet"
    folder.mkdir(exist_ok=True)
    save_file(control_net_of(model).state_dict(), folder / CONTROL_NET)
    canvas = drawn("redraw-a-picture", schemas)
    without = run_graph(server.url, canvas.api())
    for node in canvas.nodes:
        node.bypassed = False
    graph = canvas.api()
    assert any(it["class_type"] == "ControlNetApplyAdvanced" for it in graph.values())
    with_it = run_graph(server.url, graph)
    last = max(int(node) for node, it in graph.items() if it["class_type"] == "PreviewImage")
    files = [fetch_image(server.url, ran[str(last)]["images"][0]) for ran in (without, with_it)]
    pictures = [Image.open(io.BytesIO(file)).tobytes() for file in files]
    assert pictures[0] != pictures[1]
