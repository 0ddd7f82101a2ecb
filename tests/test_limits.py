"""What a link brings is held against the node's own limits, and named with them: ComfyUI checks only what is typed."""

import inspect
import math

import pytest
from comfy_api.latest import io
from unguide.nodes import NODES
from unguide.nodes.checked import LONGEST_TEXT, FileOptions

NUMBERS = [(node, it) for node in NODES for it in (node.define_schema().inputs or ())
           if isinstance(it, io.Int.Input | io.Float.Input) and it.min is not None]  # fmt: skip
TEXTS = [(node, it) for node in NODES for it in node.define_schema().inputs or () if isinstance(it, io.String.Input)]
CHOICES = [(node, it) for node in NODES for it in (node.define_schema().inputs or ())
           if isinstance(it, io.Combo.Input) and not isinstance(it.options, FileOptions)]  # fmt: skip


def name_of(it):
    return it.__name__ if isinstance(it, type) else it.id


def given(node, **changes):
    """Something for every input of a node: what it begins with, and no more than that for models and the like."""
    inputs = {it.id: getattr(it, "default", None) for it in node.define_schema().inputs or ()}
    for it in node.define_schema().inputs or ():
        if isinstance(it, io.Combo.Input) and inputs[it.id] is None:
            inputs[it.id] = next(iter(it.options), "none")
    return inputs | changes


def refusal(node, **changes):
    with pytest.raises(ValueError) as caught:
        node.execute(**given(node, **changes))
    return str(caught.value)


@pytest.mark.parametrize(("node", "it"), NUMBERS, ids=name_of)
def test_every_number_is_held_against_its_limits(node, it):
    less, more = (it.min - 1, it.max + 1) if isinstance(it, io.Int.Input) else (it.min - 0.5, it.max * 1.5 + 0.5)
    for value in (less, more, math.nan, math.inf, "7", [1]):
        message = refusal(node, **{it.id: value})
        assert message.startswith(f"`{it.id}` is ") and f"from {it.min} to {it.max}" in message


@pytest.mark.parametrize(("node", "it"), TEXTS, ids=name_of)
def test_no_text_holds_half_characters_or_is_endless(node, it):
    for value in ("a \ud800 cat", "\udfff", "a\0", "x" * (LONGEST_TEXT + 1), 7):
        message = refusal(node, **{it.id: value})
        assert message.startswith(f"`{it.id}` ") and len(message) < 300
        message.encode()


@pytest.mark.parametrize(("node", "it"), CHOICES, ids=name_of)
def test_no_choice_is_made_that_is_not_offered(node, it):
    assert refusal(node, **{it.id: "nothing such"}).startswith(f"`{it.id}` is 'nothing such': use one of ")


@pytest.mark.parametrize("node", NODES)
def test_a_checked_node_is_called_as_before(node):
    assert inspect.signature(node.execute) == inspect.signature(node.execute.__func__.__wrapped__.__get__(node))
    assert io.ComfyNode in node.__mro__ and node.GET_SCHEMA().node_id == node.define_schema().node_id


def test_the_numbers_that_led_astray_are_among_them():
    names = {it.id for _, it in NUMBERS}
    assert {"iterations", "steps", "rank", "batch_size", "ridge", "seeds", "grid_steps", "limit", "offset"} <= names


def test_what_a_link_brings_is_held_against_the_limits_by_the_server(server):
    from dev.client import GraphError, run_graph

    graph = {
        "1": {"class_type": "PrimitiveInt", "inputs": {"value": 0}},
        "2": {"class_type": "UnGuidePromptList", "inputs": {"file": "everyday.csv (ships with UnGuide)", "offset": 0,
                                                            "limit": ["1", 0], "seed": 0, "cfg": 7.5}},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
    }  # fmt: skip
    with pytest.raises(GraphError, match="`limit` is 0: use a whole number from 1 to 10000"):
        run_graph(server.url, graph)
