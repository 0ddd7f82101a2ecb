"""No script of a stranger's runs in the page: in a real browser, through all nodes, menus, errors and reports."""

import sys

import pytest
from real_host import HOST
from unguide.nodes import NODES
from unguide.unguide_ops.files import save_lora
from unguide.unguide_ops.page import as_json, for_page

from dev import browser, hosts
from dev.demo_graph import GraphBuilder
from dev.environment import make_base
from dev.reliability import injections
from dev.server import HostServer

if not browser.find():
    pytest.skip(f"no Chromium on this machine: {browser.ADVICE}", allow_module_level=True)


@pytest.fixture(scope="module")
def served(request, tmp_path_factory, trained):
    """A ComfyUI with hostile files in its folders, with its own front end, and with the newest there is."""
    base = make_base(tmp_path_factory.mktemp("base"))
    lora = tmp_path_factory.mktemp("lora") / "it.safetensors"
    save_lora(lora, trained)
    injections.fill(base, lora)
    newest = ["--front-end-root", str(hosts.FrontEnd(hosts.LATEST).page)]
    with HostServer(HOST, base, args=newest if request.param == "newest" else []) as server:
        yield server


def test_the_graph_has_every_node():
    build = GraphBuilder()
    injections.all_nodes(build)
    types = {it["class_type"] for it in build.graph.values()}
    assert not {it.GET_SCHEMA().node_id for it in NODES} - types


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
def test_no_words_of_a_stranger_s_are_run_by_the_page(served, nodes_2):
    with browser.comfy_page(served.url) as comfy:
        comfy.open(nodes_2=nodes_2)
        found = injections.try_page(comfy)
    sys.stdout.write(f"injections_tried {found.tried} injections_run {len(found.ran)}\n")
    assert found.tried > 100 and not found.ran


def test_no_words_of_a_stranger_s_are_run_by_a_report(tmp_path):
    with browser.comfy_page("about:blank") as comfy:
        found = injections.try_reports(comfy.page, tmp_path, HOST)
    sys.stdout.write(f"injections_tried {found.tried} injections_run {len(found.ran)}\n")
    assert not found.ran


def test_words_for_the_page_hold_no_tags_and_can_be_sent():
    words = for_page(injections.words("x") + "\ud800\x1b[31m\u202eabc\nnext\tone")
    assert not set("<>\ud800\x1b\u202e\t") & set(words) and words.count("\n") == 1
    words.encode()
    said = as_json({"it": "<b>&"})
    assert not set("<>&") & set(said) and said == '{"it": "\\u003cb\\u003e\\u0026"}'
