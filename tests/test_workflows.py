"""The workflows that ship: each file fits the nodes as they are, and runs on the embedded model."""

import io
import json

import pytest
from imitations.sampling import control_net_of
from PIL import Image
from safetensors.torch import save_file

from dev import browser
from dev.client import fetch_image, run_graph
from dev.workflows import FOLDER, WORKFLOWS, file_of, on_the_demo_model, read_api

NOTE = "MarkdownNote"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
TITLE = 30  # pixels of a node's title, above its position
CONTROL_NET = "control_v11p_sd15_canny_fp16.safetensors"
ITERATIONS = 30  # enough for the gate to know the cat


@pytest.fixture(params=WORKFLOWS)
def workflow(request):
    return json.loads(file_of(request.param).read_text(encoding="utf-8")) | {"name": request.param}


@pytest.fixture
def nodes(workflow):
    return {node["id"]: node for node in workflow["nodes"] if node["type"] != NOTE}


def options_of(spec):
    return spec[1] if len(spec) > 1 else {}


def is_widget(spec):
    return (isinstance(spec[0], list) or spec[0] in WIDGETS) and not options_of(spec).get("forceInput")


def kind_of(spec):
    return "COMBO" if isinstance(spec[0], list) else spec[0]


def inputs_of(schema):
    """Name -> specification of a node's inputs."""
    return {**schema["input"].get("required", {}), **schema["input"].get("optional", {})}


def widget_values(node, schema):
    """Name -> value of a node's widgets; a seed is followed by what happens to it after a run."""
    values, widgets = iter(node["widgets_values"]), {}
    for name, spec in inputs_of(schema).items():
        if is_widget(spec):
            widgets[name] = next(values)
            assert not options_of(spec).get("control_after_generate") or next(values) == "fixed"
    assert list(values) == []
    return widgets


def is_valid(value, spec):
    kind, options = kind_of(spec), options_of(spec)
    if kind == "COMBO":
        choices = spec[0] if isinstance(spec[0], list) else options["options"]
        return value in choices or value.endswith(".safetensors")
    if kind in ("INT", "FLOAT"):
        return options.get("min", value) <= value <= options.get("max", value)
    return isinstance(value, {"STRING": str, "BOOLEAN": bool}[kind])


def box(node):
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE, x + width, y + height


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def is_inside(inner, group):
    left, top, width, height = group["bounding"]
    return left <= inner[0] and top <= inner[1] and inner[2] <= left + width and inner[3] <= top + height


def test_each_file_that_ships_is_a_workflow_of_these_with_a_picture():
    assert {path.stem for path in FOLDER.glob("*.json")} == set(WORKFLOWS)
    assert all(file_of(name).with_suffix(".jpg").is_file() for name in WORKFLOWS)


def test_nodes_have_the_inputs_and_outputs_of_their_schemas_in_order(schemas, nodes):
    for node in nodes.values():
        schema = schemas[node["type"]]
        inputs = inputs_of(schema)
        slots = {slot["name"]: slot["type"] for slot in node["inputs"]}
        outputs = [(slot["name"], slot["type"]) for slot in node["outputs"]]
        offered = list(zip(schema["output_name"], schema["output"], strict=True))
        if node["type"].startswith("UnGui"):
            links_first = sorted(inputs, key=lambda name: is_widget(inputs[name]))
            assert list(slots.items()) == [(name, kind_of(inputs[name])) for name in links_first]
            assert outputs == offered
        else:  # newer hosts give their own nodes more
            assert schema["input"].get("required", {}).keys() <= slots.keys() <= inputs.keys()
            assert outputs == offered[: len(outputs)]


def test_widgets_have_valid_values_which_the_api_format_has_too(schemas, workflow, nodes):
    graph = read_api(workflow["name"])
    assert graph.keys() == {str(number) for number, node in nodes.items() if not node["mode"]}  # others are bypassed
    for number, node in nodes.items():
        schema = schemas[node["type"]]
        values, inputs = widget_values(node, schema), inputs_of(schema)
        assert [name for name, value in values.items() if not is_valid(value, inputs[name])] == []
        linked = {slot["name"] for slot in node["inputs"] if slot["link"]}
        if not node["mode"]:
            sent = graph[str(number)]["inputs"]
            assert {name for name, value in sent.items() if isinstance(value, list)} == linked
            assert {name: sent[name] for name in sent.keys() - linked} == {
                name: values[name] for name in values.keys() - linked
            }


def test_links_join_an_output_and_an_input_of_one_type(workflow, nodes):
    for link, source, source_slot, target, target_slot, kind in workflow["links"]:
        output, slot = nodes[source]["outputs"][source_slot], nodes[target]["inputs"][target_slot]
        assert kind == output["type"] and slot["type"] in (kind, "*")
        assert link in output["links"] and slot["link"] == link
    ends = [slot["link"] for node in nodes.values() for slot in node["inputs"] if slot["link"]]
    assert sorted(ends) == sorted(link[0] for link in workflow["links"])


def test_no_node_overlaps_another_or_lies_outside_a_group(workflow, nodes):
    boxes = {node["id"]: box(node) for node in workflow["nodes"]}
    assert [(a, b) for a in boxes for b in boxes if a < b and overlap(boxes[a], boxes[b])] == []
    assert [node for node in nodes if not any(is_inside(boxes[node], group) for group in workflow["groups"])] == []


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_runs_to_its_pictures(server, name):
    """In the order in which they ship: later ones load the LoRA that the first one saves."""
    graph = on_the_demo_model(read_api(name))
    for node in graph.values():
        if node["class_type"] == "UnGuideTrainLoRA":
            node["inputs"] |= {"preset": "custom", "iterations": ITERATIONS, "grid_steps": 0}
    outputs = run_graph(server.url, graph)
    shows = ("PreviewImage", "SaveImage", "UnGuideStabilityProbe", "UnGuideEvaluate", "UnGuideCalibrate")
    pictures = [number for number, node in graph.items() if node["class_type"] in shows]
    assert pictures and all(outputs[number]["images"] for number in pictures)
    texts = [text for output in outputs.values() for text in output.get("text", ())]
    reports = [json.loads(text) for text in texts if '"decisions"' in text]
    weights = [decision["w"] for report in reports for decision in report["decisions"]]
    assert 0.0 in weights or "UnGuidanceKSampler" not in str(graph)  # each that has one draws a cat with it


@pytest.mark.skipif(not browser.find(), reason=f"no Chromium on this machine: {browser.ADVICE}")
def test_the_redrawn_picture_takes_a_control_net(server, model):
    """As after Ctrl+B on the green group, with a file as ControlNets come."""
    folder = server.base / "models" / "controlnet"
    folder.mkdir(exist_ok=True)
    save_file(control_net_of(model).state_dict(), folder / CONTROL_NET)
    with browser.comfy_page(server.url) as comfy:
        comfy.open()
        comfy.load(file_of("redraw-a-picture"))
        graphs = [comfy.api()]
        comfy.page.evaluate("() => app.graph._nodes.forEach((node) => { node.mode = 0; })")
        graphs.append(comfy.api())
    assert [any(node["class_type"] == "ControlNetApplyAdvanced" for node in graph.values()) for graph in graphs] == [
        False,
        True,
    ]
    last = max(int(number) for number, node in graphs[0].items() if node["class_type"] == "PreviewImage")
    images = [run_graph(server.url, graph)[str(last)]["images"][0] for graph in graphs]
    pictures = [Image.open(io.BytesIO(fetch_image(server.url, image))).tobytes() for image in images]
    assert pictures[0] != pictures[1]
