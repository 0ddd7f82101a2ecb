"""A real server under load: two clients fill its queue with all kinds of graphs, and cancel some of them.

What is finished is, bit for bit, what the same graph gives alone; memory does not grow, and the queue never sticks.
"""

import asyncio
import contextlib
import itertools
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import aiohttp
import pytest
from node_graphs import CAT, DOG, NodeGraph, graph_of, results
from restarting_server import RestartingServer
from unguide.unguide_ops.files.lora_file import save_lora

from dev.client import events, free, interrupt, run_graph
from dev.server import request

DRAWS = (NodeGraph.own_sampler, NodeGraph.any_sampler, NodeGraph.guider, NodeGraph.two_concepts, NodeGraph.probe,
         NodeGraph.calibrate)  # fmt: skip
BLOCK = [(NodeGraph.own_sampler, CAT)] * 2 + [*itertools.product(DRAWS, (CAT, DOG))] + [(NodeGraph.train, CAT)]
"""What comes in random order, with a plain graph before each three."""
FATES = {"deleted": 0.1, "interrupted": 0.1, "": 0.8}  # shares of the prompts
AHEAD = 3  # an order is deleted so many before its turn, or more: the server does not wait for it
MESSAGES = 5  # about a running order, until it is interrupted at the latest
TIMEOUT = 300.0  # seconds without a finished prompt, until the queue counts as stuck
CLIENTS = 2


@dataclass
class Order:
    """A graph to queue, and how it is to end."""

    draw: Callable
    prompt: str
    run: int
    fate: str  # "", "deleted" while it waits or "interrupted" while it runs, as it was drawn by lot
    due: int  # it is deleted when the order of this number starts, interrupted at the message of this number about it
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def graph(self) -> dict:
        return graph_of(self.draw, self.prompt, self.run)


def make_orders(number, seed):
    """So many orders, and which of them are to be cancelled."""
    rng = random.Random(seed)  # noqa: S311
    pairs = []
    while len(pairs) < number:
        block = rng.sample(BLOCK, len(BLOCK))
        for start in range(0, len(block), 3):
            pairs += [(NodeGraph.plain, DOG), *block[start : start + 3]]
    orders = []
    for run, (draw, prompt) in enumerate(pairs[:number], 1):
        (fate,) = rng.choices(list(FATES), list(FATES.values()))
        latest = max(1, run - AHEAD) if fate == "deleted" else MESSAGES
        orders.append(Order(draw, prompt, run, fate, rng.randint(1, latest)))
    return orders


def result_alone(url, order):
    """What an order gives if nothing else is in memory."""
    free(url)
    return results(url, order.graph, run_graph(url, order.graph))


async def run_all(url, orders):
    """Queue all orders, cancel some, and wait until none is left, or none has ended for TIMEOUT seconds."""
    async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as stack:
        clients = [uuid.uuid4().hex for _ in range(CLIENTS)]
        for client in clients:
            socket = await stack.enter_async_context(session.ws_connect(f"{url}/ws?clientId={client}", max_msg_size=0))
            stack.callback(asyncio.create_task(cancel_when_due(socket, url, orders)).cancel)
        queues = enumerate(clients)
        await asyncio.gather(*(asyncio.to_thread(queue, url, orders[i::CLIENTS], client) for i, client in queues))
        last, waiting = time.monotonic(), len(orders)
        while waiting and time.monotonic() - last < TIMEOUT:
            now = json.loads(await asyncio.to_thread(request, f"{url}/prompt"))["exec_info"]["queue_remaining"]
            if now < waiting:
                last, waiting = time.monotonic(), now
            await asyncio.sleep(0.2)


def queue(url, orders, client):
    for order in orders:
        request(f"{url}/prompt", {"prompt": order.graph, "prompt_id": order.id, "client_id": client})


async def cancel_when_due(socket, url, orders):
    """Read what the server sends, as a page does, and cancel each order at its moment."""
    by_id, messages = {order.id: order for order in orders}, Counter()
    async for name, data in events(socket):
        if (order := by_id.get(data.get("prompt_id"))) is None:
            continue
        messages[order.id] += 1
        if order.fate == "interrupted" and messages[order.id] == order.due:
            await asyncio.to_thread(interrupt, url, order.id)
        if name == "execution_start":  # what was due before as well: it may not have been queued yet
            due = [other.id for other in orders if other.fate == "deleted" and other.due <= order.run]
            await asyncio.to_thread(request, f"{url}/queue", {"delete": due})


def end_of(url, order, expected):
    """How an order ended: "finished", "cancelled", "stuck", "drifted" from the expected results, or its error."""
    entry = json.loads(request(f"{url}/history/{order.id}")).get(order.id)
    if entry is None:
        return "cancelled" if order.fate == "deleted" else "stuck"
    if entry["status"]["completed"]:
        return "finished" if results(url, order.graph, entry["outputs"]) == expected else "drifted"
    messages = dict(entry["status"]["messages"])
    is_cancelled = "execution_interrupted" in messages and order.fate == "interrupted"
    return "cancelled" if is_cancelled else f"{order}: {messages}"


def growth(kind, orders, held):
    """What was held behind plain graphs in the last quarter, in units of the second quarter's."""
    plain = [held[order.id][kind] for order in orders if order.draw is NodeGraph.plain and order.id in held]
    quarter = max(1, len(plain) // 4)
    return median(plain[-quarter:]) / median(plain[quarter : 2 * quarter])


@pytest.fixture(scope="module")
def server(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_lora(folder / "trained.safetensors", trained)
    with RestartingServer(folder, folder / "trained.safetensors") as server:
        yield server


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("number", "seed"), [(20, 17), pytest.param(200, 0, marks=pytest.mark.slow)])
def test_prompts_of_two_clients_some_cancelled(server, record_figure, number, seed):
    orders = make_orders(number, seed)
    expected = {}
    for order in orders:
        if (order.draw, order.prompt) not in expected:
            expected[order.draw, order.prompt] = result_alone(server.url, order)
    start = time.monotonic()
    asyncio.run(run_all(server.url, orders))
    seconds = time.monotonic() - start
    ends = Counter(end_of(server.url, order, expected[order.draw, order.prompt]) for order in orders)
    held = server.held_after_prompts()
    tensors, resident = growth("tensors", orders, held), growth("resident", orders, held)
    drifted, stuck = ends["drifted"], ends["stuck"]
    record_figure(
        "load", queued_prompts=number, drifted_outputs=drifted, finished_prompts=ends["finished"] + drifted,
        cancelled_prompts=ends["cancelled"], stuck_prompts=stuck, load_seconds=seconds, tensor_growth_ratio=tensors,
        failed_prompts=number - ends["finished"] - drifted - ends["cancelled"] - stuck,
        memory_growth_ratio=max(tensors, resident),
    )  # fmt: skip
    # with seed 17 three are deleted long before their turn; a cancel of one of the four that run may come too late
    assert ends["finished"] >= 0.6 * number and ends["cancelled"] >= 3, ends
    assert ends["finished"] + ends["cancelled"] == number, ends
    assert tensors <= 1.02 and resident < 1.1


def test_a_node_says_what_was_decided_when_another_one_has_sampled(server):
    """UnGuidance and its guider only pass a MODEL or GUIDER on; the sampler behind them runs the gate."""
    for draw, node in ((NodeGraph.any_sampler, "UnGuidance"), (NodeGraph.guider, "UnGuidanceGuider")):
        graph, shown = graph_of(draw), {}

        def note(name, data, graph=graph, shown=shown):
            if name == "progress_text":
                shown[graph[data["node"]]["class_type"]] = data["text"]

        run_graph(server.url, graph, note)
        assert shown[node].startswith("w = 0: recognised as the concept.") and "model calls" in shown[node]
