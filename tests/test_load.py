"""A real server under load: what it draws stays the same, its memory stays, its queue goes on."""

from contextlib import nullcontext

import pytest
from real_host import HOST
from unguide.unguide_ops.files import save_lora

from dev.client import run_graph
from dev.reliability import graphs, load, serving


@pytest.fixture(scope="module")
def url(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_lora(folder / "it.safetensors", trained)
    with serving.server_of(HOST, folder, folder / "it.safetensors") as server:
        yield server.url


def test_twenty_prompts_of_two_clients_some_cancelled(url):
    found = load.measure(lambda: nullcontext(url), number=20, seed=17)
    figures = found["figures"]
    assert found["findings"] == [] and figures["drifted_outputs"] == 0 and figures["stuck_prompts"] == 0
    # with this seed three are deleted long before their turn; a cancel of one of the four that run may come too late
    assert figures["finished_prompts"] >= 12 and figures["cancelled_prompts"] >= 3
    assert figures["finished_prompts"] + figures["cancelled_prompts"] == 20
    assert figures["tensor_growth_ratio"] <= 1.02 and figures["memory_growth_ratio"] < 1.1


def test_a_node_says_what_was_decided_when_another_one_has_sampled(url):
    """UnGuidance and its guider only hand on; the sampler behind them runs the gate."""
    for draw, ours in ((graphs.any_sampler, "UnGuidance"), (graphs.guider, "UnGuidanceGuider")):
        graph, said = graphs.graph(draw), {}

        def note(name, data, graph=graph, said=said):
            if name == "progress_text":
                said[graph[data["node"]]["class_type"]] = data["text"]

        run_graph(url, graph, note)
        assert said[ours].startswith("w = -1: recognised as the concept.") and "evaluations" in said[ours]
