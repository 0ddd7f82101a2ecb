"""The help pages that the front end shows for the nodes (web/docs): they say what the code says."""

import ast
import re

import pytest
from real_host import REPOSITORY
from unguide.nodes import NODES

DOCS = REPOSITORY / "web" / "docs"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
INFOS = {info["name"]: info for info in (node.GET_NODE_INFO_V1() for node in NODES)}
COMMANDS = {"python dev sweep", "pip install open_clip_torch", "pip install nudenet"}  # in backticks as well
BIGGEST = 100_000  # bytes of a picture
ANYTHING = re.compile(r"\.\.\.|`[^`]*`|(?<=[ (])'[^']*'")  # in messages: what is cut, names, values
ON_A_MACHINE = re.compile(r"(?<![\w.])/(home|root|work|tmp|opt|usr|var|mnt|Users|Volumes)/|\b[A-Za-z]:\\|~/|file:")


@pytest.fixture(params=sorted(INFOS))
def node(request):
    return request.param


@pytest.fixture(scope="module")
def texts():
    """The texts in the sources, a NUL where a value is filled in."""
    files = [path for folder in ("nodes", "unguide_ops", "demo_model") for path in (REPOSITORY / folder).rglob("*.py")]
    found = [it for path in files for it in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    plain = {it.value for it in found if isinstance(it, ast.Constant) and isinstance(it.value, str)}
    return plain | {
        "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in it.values)
        for it in found
        if isinstance(it, ast.JoinedStr)
    }


def inputs(node: str) -> dict:
    """Name -> kind and more."""
    groups = INFOS[node]["input"]
    return {**groups.get("required", {}), **groups.get("optional", {})}


def without_graphs(page: str) -> str:
    return re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)


def in_backticks(node: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", without_graphs(PAGES[node])))


def messages(node: str) -> list[str]:
    """What stands in double quotes in the first cells of the last table."""
    rows = [line for line in PAGES[node].split("## If something goes wrong")[1].splitlines() if line.startswith("| ")]
    return [message for row in rows for message in re.findall(r'"(.+)"', row.split(" | ")[0])]


def stands_in(message: str, text: str) -> bool:
    """Whether a message, but for what varies in it, stands in a text, in this order."""
    at = 0
    for part in filter(str.strip, ANYTHING.split(message)):
        at = text.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


def test_every_node_has_a_page_and_every_page_a_node():
    assert PAGES.keys() == INFOS.keys()
    assert {it.name for it in DOCS.iterdir() if it.is_dir()} <= {"images", *INFOS}  # translations: <node>/<language>.md


def test_a_page_names_every_input_and_output_of_its_node(node):
    assert not {*inputs(node), *INFOS[node]["output_name"]} - in_backticks(node)


def test_a_page_names_nothing_in_backticks_that_its_node_has_not(node):
    choices = {choice for kind, more in inputs(node).values() if kind == "COMBO" for choice in more["options"]}
    assert not in_backticks(node) - {*inputs(node), *INFOS[node]["output_name"], *choices, *COMMANDS}


def test_a_page_has_its_parts(node):
    begins, *parts = re.split(r"^## ", without_graphs(PAGES[node]), flags=re.MULTILINE)
    assert re.match(r"\*\*[^*]+\*\*\n\n", begins)  # in one sentence what it is for
    titles = ["What matters", "Outputs", "What it costs", "If something goes wrong", "In a graph"]
    assert [it.splitlines()[0] for it in parts] == titles
    assert parts[-1].count("**What it is not:** ") == 1


def test_the_graph_on_a_page_fits_its_node(node):
    (graph,) = re.findall(r"^```\n(.*?)^```", PAGES[node], flags=re.MULTILINE | re.DOTALL)
    before, after = graph.split(f"[ {INFOS[node]['display_name']} ]\n")
    sockets = {name for line in before.splitlines() for name in line.split("->")[1:] for name in name.split(",")}
    assert {it.strip() for it in sockets} <= inputs(node).keys()
    assert {line.split("->")[0].strip() for line in after.splitlines()} <= {*INFOS[node]["output_name"]}


def test_a_page_calls_nodes_by_their_names(node):
    called = set(re.findall(r"\*(UnGuid[^*]*)\*", PAGES[node]))
    assert called <= {it["display_name"] for it in INFOS.values()}


def test_messages_on_a_page_are_those_of_the_code(node, texts):
    assert node == "UnGuideDemoModel" or messages(node)
    for message in messages(node):
        assert any(stands_in(message, text) for text in texts), message


def test_pictures_are_there_and_small():
    shown = {target for page in PAGES.values() for target in re.findall(r"\]\(([^)]*)\)", page)}
    assert shown == {f"images/{it.name}" for it in (DOCS / "images").iterdir()}  # other links lead nowhere there
    assert all((DOCS / it).stat().st_size < BIGGEST for it in shown)


def test_no_page_names_a_place_on_a_machine(node):
    assert not ON_A_MACHINE.search(PAGES[node])
