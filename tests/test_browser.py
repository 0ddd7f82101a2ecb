"""The real front end in a real browser: templates, workflows, Run, help, errors, Cancel, on both kinds of canvas.

What was seen is kept in output/browser.
"""

import pytest
from real_host import HOST, REPOSITORY
from unguide.nodes import NODES

from dev import browser, hosts
from dev.environment import make_base
from dev.server import HostServer
from dev.workflows import WORKFLOWS, file_of, read_api

if not browser.find():
    pytest.skip(f"no Chromium on this machine: {browser.ADVICE}", allow_module_level=True)

SHOTS = REPOSITORY / "output" / "browser"
MARKED = """() => app.graph._nodes
    .filter((node) => node.has_errors && node.widgets.every((it) => it.options?.values?.includes?.(it.value) ?? true))
    .map((node) => node.type)"""
"""Nodes with a frame of errors, but for those that name a file which is not there yet."""
OUTGROWN = """() => {
    const inside = ([x, y, wide, high]) => app.graph._groups.some(({ pos, size }) =>
        pos[0] <= x && pos[1] <= y && x + wide <= pos[0] + size[0] && y + high <= pos[1] + size[1]);
    const nodes = app.graph._nodes.filter((it) => it.type !== 'MarkdownNote' && !inside(it.boundingRect));
    return nodes.map((it) => [it.title, ...it.boundingRect]);
}"""
"""Nodes that do not lie in a group as a whole."""
PICTURES = """(nodes_2) => {
    const trainer = app.graph._nodes.find((it) => it.type === 'UnGuideTrainLoRA');
    return nodes_2 ? document.querySelectorAll(`[data-node-id="${trainer.id}"] img`).length : trainer.imgs.length;
}"""
"""How many the trainer shows."""
IDS = [node.GET_SCHEMA().node_id for node in NODES]


SURROUNDINGS = {
    f"{front_end} front end, {'Nodes 2.0' if nodes_2 else 'classic canvas'}": (front_end, nodes_2)
    for front_end in ("own", "newest") for nodes_2 in (False, True)
}  # fmt: skip
EVERYWHERE = ("first_workflow", "wrong_input", "every_node")
"""In the names of tests that run in all surroundings each time; the others do in the first, and are slow elsewhere."""


def pytest_generate_tests(metafunc):
    if "comfy" in metafunc.fixturenames:
        everywhere = any(it in metafunc.function.__name__ for it in EVERYWHERE)
        its = [
            pytest.param(where, id=name, marks=[] if everywhere or not number else pytest.mark.slow)
            for number, (name, where) in enumerate(SURROUNDINGS.items())
        ]
        metafunc.parametrize("comfy", its, indirect=True, scope="module")


@pytest.fixture(scope="module")
def comfy(request, tmp_path_factory):
    """The page of a ComfyUI with its own front end or the newest there is, on either canvas."""
    front_end, nodes_2 = request.param
    newest = ["--front-end-root", str(hosts.FrontEnd(hosts.LATEST).page)]
    args = newest if front_end == "newest" else []
    with (
        HostServer(HOST, make_base(tmp_path_factory.mktemp("base")), args=args) as served,
        browser.comfy_page(served.url) as comfy,
    ):
        comfy.open(nodes_2)
        comfy.nodes_2, comfy.log = nodes_2, served.log
        folds_inputs = not (nodes_2 and front_end == "own" and hosts.at(HOST).name == hosts.OLDEST)
        comfy.outgrown = OUTGROWN if folds_inputs else "() => []"  # the oldest Nodes 2.0 shows advanced inputs too
        comfy.shots = SHOTS / f"{front_end}-{'nodes-2' if nodes_2 else 'classic'}"
        yield comfy


def test_the_templates_list_shows_ours_with_pictures_and_opens_one(comfy):
    comfy.page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    comfy.page.get_by_role("dialog").get_by_text("unguide", exact=True).click()
    comfy.page.get_by_test_id("template-workflow-forget-the-cat").locator("img").first.wait_for()
    cards = comfy.page.locator("[data-testid^=template-workflow-]:not([data-testid$=content])")
    names = cards.evaluate_all("cards => cards.map((it) => it.dataset.testid.replace('template-workflow-', ''))")
    assert set(names) == set(WORKFLOWS)
    comfy.wait("([n]) => [...document.querySelectorAll('[role=dialog] img')]"
               ".filter((it) => it.naturalWidth).length >= n", len(WORKFLOWS))  # fmt: skip
    comfy.shoot(comfy.shots / "templates.png")
    comfy.page.get_by_test_id("template-workflow-forget-the-cat").click()
    comfy.wait("() => app.graph._nodes.some((it) => it.type === 'UnGuideTrainLoRA')")
    assert "forget-the-cat" in comfy.page.locator(".workflow-tabs").inner_text()


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_opens_without_complaint_and_sends_what_is_saved_for_the_api(comfy, name):
    comfy.load(file_of(name))
    asks = [it for it in comfy.dialogs() if "v1-5-pruned-emaonly-fp16" not in it]  # a download is offered for that one
    comfy.page.keyboard.press("Escape")
    comfy.shoot(comfy.shots / f"{name}.png")
    assert not asks and not comfy.page.evaluate(browser.OVERLAPS)
    assert not comfy.page.evaluate(MARKED)
    saved, sent = read_api(name), comfy.api()
    assert sent.keys() == saved.keys()
    for number, node in saved.items():
        assert sent[number]["class_type"] == node["class_type"]
        assert {name: sent[number]["inputs"][name] for name in node["inputs"]} == node["inputs"]


def test_run_on_the_first_workflow_ends_in_pictures_words_and_nothing_in_the_logs(comfy):
    before = len(comfy.log.read_bytes())
    comfy.load(file_of("forget-the-cat"))
    comfy.run()
    shows = ("UnGuideTrainLoRA", "UnGuideStabilityProbe", "PreviewImage")
    comfy.wait("([shows]) => app.graph._nodes.filter((it) => shows.includes(it.type))"
               ".every((it) => app.nodeOutputs[it.id]?.images?.length)", shows)  # fmt: skip
    comfy.fit()
    comfy.shoot(comfy.shots / "run.png")
    pictures = comfy.page.evaluate("() => app.graph._nodes.filter((it) => it.type === 'PreviewImage')"
                                   ".map((it) => [it.title, app.nodeOutputs[it.id].images.length])")  # fmt: skip
    assert pictures == [["Base model", 8], ["UnGuidance", 8]]
    words = comfy.words()
    assert any("a photo of the cat: recognised as the concept" in it for it in words)
    assert any("model calls" in it for it in words)
    comfy.page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    comfy.wait("() => !app.graph._nodes.length")
    comfy.page.evaluate("() => app.extensionManager.command.execute('Workspace.PreviousOpenedWorkflow')")
    comfy.wait("() => app.graph._nodes.length")
    assert comfy.words() == words
    assert comfy.page.evaluate(PICTURES, comfy.nodes_2) == 1  # the trainer's grid, not its last preview as well
    assert not comfy.page.evaluate(comfy.outgrown)
    log = comfy.log.read_bytes()[before:].decode(errors="replace")
    assert not [it for it in log.splitlines() if "unguide" in it.lower() and ("warn" in it.lower() or "rror" in it)]
    assert not comfy.pack_complaints() and not comfy.dialogs()


@pytest.mark.parametrize("node", ["UnGuideTrainLoRA", "UnGuidance"])
def test_help_opens_with_its_picture(comfy, node):
    comfy.page.evaluate("""(type) => {
        app.graph.clear();
        const node = LiteGraph.createNode(type);
        app.graph.add(node);
        app.canvas.selectNode(node);
    }""", node)  # fmt: skip
    comfy.fit()
    comfy.page.get_by_test_id("info-button").click()
    help_page = comfy.page.locator(".node-help-content")
    help_page.locator("img").first.wait_for()
    comfy.wait("() => [...document.querySelectorAll('.node-help-content img')].every((it) => it.naturalWidth > 0)")
    comfy.shoot(comfy.shots / f"help-{node}.png")
    page = (REPOSITORY / "web" / "docs" / f"{node}.md").read_text(encoding="utf-8")
    title = next(line.lstrip("# ") for line in page.splitlines() if line.startswith("#"))
    assert title in help_page.inner_text()
    comfy.page.keyboard.press("Escape")


def test_a_wrong_input_shows_our_message_at_the_node(comfy):
    comfy.load(file_of("draw-without-it"))
    comfy.set("UnGuidanceKSampler", gate="linked")
    comfy.press("Run")
    comfy.wait("() => app.lastExecutionError")
    comfy.page.wait_for_timeout(500)
    comfy.shoot(comfy.shots / "wrong-input.png")
    assert any("set `gate` to 'inside sampling'" in it for it in comfy.words())
    at = comfy.page.evaluate("() => app.graph.getNodeById(app.lastExecutionError.node_id).type")
    assert at == "UnGuidanceKSampler"
    comfy.page.keyboard.press("Escape")


def test_cancel_stops_training_and_keeps_what_was_trained(comfy):
    comfy.load(file_of("forget-the-cat"))
    comfy.set("UnGuideTrainLoRA", preset="custom", iterations=10_000, early_stop=False)
    comfy.press("Run")
    comfy.page.get_by_text("of 10000, loss").first.wait_for()
    comfy.shoot(comfy.shots / "training.png")
    comfy.press("Cancel current run")
    comfy.wait("() => !app.runningNodeId")
    comfy.wait("() => app.graph._nodes.some((it) => it.widgets?.some((one) => "
               "one.name === 'unguide_words' && one.value.includes('is kept as unguide/cancelled/')))")  # fmt: skip
    assert not comfy.pack_complaints()


def test_advanced_inputs_fold_and_unfold(comfy):
    sizes = comfy.page.evaluate("""async () => {
        app.graph.clear();
        const node = LiteGraph.createNode("UnGuideTrainLoRA");
        app.graph.add(node);
        const height = () => node.computeSize()[1];
        const folded = height();
        node.toggleAdvanced();
        return [folded, height(), node.widgets.filter((it) => it.advanced).length];
    }""")
    assert sizes[2] > 15 and sizes[1] - sizes[0] == 24 * sizes[2]


def test_every_node_is_drawn_with_its_inputs(comfy):
    comfy.page.evaluate("""(ids) => {
        app.graph.clear();
        ids.forEach((id, i) => {
            const node = LiteGraph.createNode(id);
            node.pos = [20 + (i % 5) * 480, 60 + Math.floor(i / 5) * 780];
            app.graph.add(node);
        });
        app.canvas.ds.scale = 0.75;  // further off, words are left out
        app.canvas.ds.offset = [100, 140];
        app.canvas.setDirty(true, true);
    }""", IDS)  # fmt: skip
    comfy.page.set_viewport_size({"width": 2000, "height": 1700})
    comfy.page.wait_for_timeout(1500)
    comfy.shoot(comfy.shots / "nodes.png")
    if comfy.nodes_2:
        comfy.page.locator("[data-node-id]").nth(len(IDS) - 1).wait_for(state="attached")
        texts = "\n".join(comfy.page.locator("[data-node-id]").all_inner_texts())
        for node in NODES:
            assert node.GET_SCHEMA().display_name in texts
        assert "false_positive_rate" in texts and "iterations" in texts
    else:
        assert comfy.page.evaluate("() => app.graph._nodes.every((it) => it.boundingRect[3] > 30)")
    assert not comfy.pack_complaints() and not comfy.dialogs()
