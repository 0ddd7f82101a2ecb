"""No script of other people's runs in the page: in a real browser, through all nodes, menus, errors and reports."""

import page_injections
import pytest
from page_injections import InjectionGraph
from real_host import HOST
from unguide.nodes import NODES
from unguide.unguide_ops.files.lora_file import save_lora
from unguide.unguide_ops.safe_text import json_without_markup, without_markup

from dev import browser, hosts
from dev.environment import make_base
from dev.server import HostServer

if not browser.find():
    pytest.skip(f"no Chromium on this machine: {browser.ADVICE}", allow_module_level=True)


@pytest.fixture(scope="module")
def served(request, tmp_path_factory, trained):
    """A ComfyUI with hostile files in its folders, with its own front end, and with the newest there is."""
    base = make_base(tmp_path_factory.mktemp("base"))
    lora = tmp_path_factory.mktemp("lora") / "it.safetensors"
    save_lora(lora, trained)
    page_injections.write_files(base, lora)
    newest = ["--front-end-root", str(hosts.FrontEnd(hosts.LATEST).page)]
    with HostServer(HOST, base, args=newest if request.param == "newest" else []) as server:
        yield server


def test_the_graph_has_every_node():
    graph = InjectionGraph()
    graph.all_nodes()
    assert not {node.GET_SCHEMA().node_id for node in NODES} - {node["class_type"] for node in graph.graph.values()}


@pytest.mark.parametrize(
    ("served", "nodes_2"),
    [
        pytest.param("own", False, id="own front end, classic canvas"),
        pytest.param("own", True, id="own front end, Nodes 2.0", marks=pytest.mark.slow),
        pytest.param("newest", False, id="newest front end, classic canvas", marks=pytest.mark.slow),
        pytest.param("newest", True, id="newest front end, Nodes 2.0"),
    ],
    indirect=["served"],
    scope="module",
)
def test_no_script_in_other_people_s_words_is_run_by_the_page(served, record_figure, nodes_2):
    with browser.comfy_page(served.url) as comfy:
        comfy.open(nodes_2=nodes_2)
        tried, ran = page_injections.scripts_run_by_page(comfy)
    record_figure("injection", injections_tried=tried, injections_run=len(ran))
    assert tried > 100 and not ran


def test_no_script_in_other_people_s_words_is_run_by_a_report(tmp_path, record_figure):
    with browser.comfy_page("about:blank") as comfy:
        tried, ran = page_injections.scripts_run_by_report(comfy.page, tmp_path, HOST)
    record_figure("injection", injections_tried=tried, injections_run=len(ran))
    assert not ran


def test_words_for_the_page_hold_no_tags_and_can_be_sent():
    words = without_markup(page_injections.words("x") + "\ud800\x1b[31m\u202eabc\nnext\tone")
    assert not set("<>\ud800\x1b\u202e\t") & set(words) and words.count("\n") == 1
    words.encode()
    assert json_without_markup({"it": "<b>&"}) == '{"it": "\\u003cb\\u003e\\u0026"}'
