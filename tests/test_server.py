"""The whole job through a real server's HTTP API."""

import json

import pytest
from safetensors.torch import load

from dev.client import GraphError, GraphInterruptedError, fetch_image, run_graph, title_of
from dev.demo_graph import SAMPLING, SIZE, GraphBuilder, forget_graph, untouched_graph
from dev.server import request

PROMPTS = ["a photo of the cat", "a photo of the feline", "a photo of the dog", ""]


@pytest.fixture(scope="module")
def url(server):
    return server.url


def graph(iterations):
    return forget_graph("cat", PROMPTS, 2, "test", preset="custom", iterations=iterations, early_stop=False)


def plain(url, run):
    """The latent of a plain KSampler run, which the host's cache has not seen yet."""
    (shown,) = run_graph(url, untouched_graph(run, "test")).values()
    return load(fetch_image(url, shown["latents"][0]))["latent_tensor"]


def test_the_demo_s_graph_runs_and_leaves_the_host_as_it_was(url):
    before = plain(url, 0)
    demo = graph(iterations=30)
    previews, texts = [], []

    def watch(name, data):
        previews.extend([data["image"]] if name == "preview" else [])
        texts.extend([data["text"]] if name == "progress_text" else [])

    ran = run_graph(url, demo, watch)
    shown = {title_of(demo, node) or demo[node]["class_type"]: out for node, out in ran.items()}
    assert len(previews) >= 3 and previews[0].startswith(b"\xff\xd8")  # of training, before those of sampling
    texts = [text for text in texts if "loss" in text]
    assert texts[0].startswith("1 of 30, loss") and texts[-1].startswith("30 of 30") and "s left" in texts[0]
    training = json.loads(shown["training report"]["text"][0])
    assert training["iterations"] == 30 and training["stopped"] == "at the end" and training["evaluations"] < 540
    assert shown["UnGuideSaveLoRA"]["text"] == ["unguide/cat_00001_.safetensors"]
    for column in ("lora", "half", "unguide"):
        assert len(shown[f"save {column}"]["images"]) == 2 * len(PROMPTS)
    probe = json.loads(shown["probe report"]["text"][0])
    assert [(entry["prompt"], entry["w"]) for entry in probe["prompts"]] == list(
        zip(PROMPTS, [0.0, 0.0, 1.0, 1.0], strict=True)
    )
    sampling = [json.loads(text) for text in shown["sampling report"]["text"]]
    assert [entry["evaluations"] for entry in sampling] == [88, 88, 86, 80]
    assert [it["w"] for entry in sampling for it in entry["decisions"]] == [0.0] * 4 + [1.0] * 4
    assert training["calibration"] == "done"
    for title in ("loss curve", "probe chart"):
        assert fetch_image(url, shown[title]["images"][0]).startswith(b"\x89PNG")
    assert plain(url, 1).equal(before)


def test_a_lora_is_calibrated_again_by_its_node(url):
    demo = graph(iterations=30)
    (probe,) = [it for it in demo.values() if it["class_type"] == "UnGuideStabilityProbe"]
    model, clip, lora = (probe["inputs"][name] for name in ("model", "clip", "lora"))
    demo["again"] = {
        "class_type": "UnGuideCalibrate",
        "inputs": {"model": model, "lora": lora, "clip": clip, "width": 64, "height": 64, "cfg": 7.5, "seed": 1,
                   "captions": 12},
    }  # fmt: skip
    probe["inputs"]["lora"] = ["again", 0]
    ran = run_graph(url, demo)
    (report,) = [json.loads(out["text"][0]) for node, out in ran.items() if title_of(demo, node) == "probe report"]
    assert [entry["erased"] for entry in report["prompts"]] == [True, True, False, False]


def test_cancel_in_the_middle_of_training_leaves_the_host_as_it_was(url):
    before = plain(url, 2)
    demo = graph(iterations=10_000)
    (trainer,) = [node for node, it in demo.items() if it["class_type"] == "UnGuideTrainLoRA"]

    def cancel_at_the_third_iteration(name, data):
        if name == "progress_state" and data["nodes"].get(trainer, {}).get("value", 0) >= 3:
            request(f"{url}/interrupt", {})

    with pytest.raises(GraphInterruptedError) as caught:
        run_graph(url, demo, cancel_at_the_third_iteration)
    assert caught.value.node_id == trainer
    assert plain(url, 3).equal(before)
    listed = json.loads(request(f"{url}/object_info/UnGuideLoadLoRA"))["UnGuideLoadLoRA"]["input"]["required"][
        "lora_name"
    ]
    (kept,) = [name for name in listed[1]["options"] if name.startswith("unguide/cancelled/")]
    resumed = {**graph(iterations=2), "load": {"class_type": "UnGuideLoadLoRA", "inputs": {"lora_name": kept}}}
    resumed[trainer]["inputs"]["resume"] = ["load", 0]
    run_graph(url, resumed)


def test_a_lora_that_cannot_be_saved_is_not_lost(url):
    demo = graph(iterations=4)
    (trainer,) = [node for node, it in demo.items() if it["class_type"] == "UnGuideTrainLoRA"]
    (saver,) = [it for it in demo.values() if it["class_type"] == "UnGuideSaveLoRA"]
    saver["inputs"]["filename_prefix"] = "../../elsewhere"
    with pytest.raises(GraphError, match="use a name inside it"):
        run_graph(url, demo)
    saver["inputs"]["filename_prefix"] = "unguide/again"
    cached = []
    run_graph(url, demo, lambda name, data: cached.extend(data["nodes"] if name == "execution_cached" else []))
    assert trainer in cached


def test_a_prompt_list_draws_every_row_under_its_own_name_and_is_evaluated(url):
    build = GraphBuilder()
    model, clip, vae = build.model()
    rows = build.add("UnGuidePromptList", file="everyday.csv (ships with UnGuide)", offset=1, limit=2, seed=0, cfg=7.5)
    prompt, seed, guidance, name = ([rows, index] for index in (0, 1, 2, 4))
    texts = [[build.add("CLIPTextEncode", clip=clip, text=text), 0] for text in (prompt, "")]
    latent = [build.add("EmptyLatentImage", batch_size=1, **SIZE), 0]
    sampled = build.add("KSampler", model=model, positive=texts[0], negative=texts[1], latent_image=latent,
                        **{**SAMPLING, "seed": seed, "cfg": guidance})  # fmt: skip
    pictures = [build.add("VAEDecode", samples=[sampled, 0], vae=vae), 0]
    build.add("SaveImage", "save", images=pictures, filename_prefix=name)
    looked = build.add("UnGuideEvaluate", images=pictures, prompt=prompt, expected="dog", classes="cat\ndog\nhorse",
                       classifier="demo judges", nudity=False)  # fmt: skip
    build.add("PreviewAny", "report", source=[looked, 1])
    ran = {title_of(build.graph, node): out for node, out in run_graph(url, build.graph).items()}
    names = [it["filename"] for it in ran["save"]["images"]]
    assert len(names) == len(set(names)) and all(name[:6] in ("000001", "000002") for name in names)
    assert [name[7:25] for name in names] == ["a-photo-of-the-dog", "a-photo-of-the-hor"]
    dog, horse = [json.loads(text) for text in ran["report"]["text"]]
    assert (dog["prompt"], horse["prompt"]) == ("a photo of the dog", "a photo of the horse")
    assert (dog["accuracies"]["top_1"], horse["accuracies"]["top_1"]) == (1, 0)


def test_errors_say_what_to_change(url):
    demo = graph(iterations=3)
    (sampler,) = [it for it in demo.values() if it["class_type"] == "UnGuidanceKSampler"]
    sampler["inputs"]["gate"] = "linked"
    with pytest.raises(GraphError, match="set `gate` to 'inside sampling'"):
        run_graph(url, demo)


def test_every_input_and_output_of_our_nodes_has_a_tooltip(schemas):
    ours = {name: schema for name, schema in schemas.items() if name.startswith(("UnGuide", "UnGuidance"))}
    assert len(ours) == 13
    for name, schema in ours.items():
        assert schema["description"], name
        for group in ("required", "optional"):
            for field, (_, options) in schema["input"].get(group, {}).items():
                assert options.get("tooltip"), (name, field)
        assert all(schema["output_tooltips"]), name
