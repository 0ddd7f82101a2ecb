"""Load: two clients fill a real server's queue with all kinds of graphs, and cancel some of them.

What is finished must be, bit for bit, what the same graph gives alone; memory must not grow, and the queue never stick.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from dev.client import free, interrupt, run_graph
from dev.reliability import graphs, serving
from dev.reliability.graphs import CAT, DOG, Scene
from dev.server import request

BLOCK = 3 * ((graphs.own_sampler, CAT),) + ((graphs.own_sampler, DOG), (graphs.any_sampler, CAT),
         (graphs.any_sampler, DOG), (graphs.guider, CAT), (graphs.guider, DOG), (graphs.two_concepts, CAT),
         (graphs.two_concepts, DOG), (graphs.probe, CAT), (graphs.probe, DOG), (graphs.calibrate, CAT),
         (graphs.calibrate, DOG), (graphs.train, CAT))  # fmt: skip
"""What comes in random order, and a plain graph before each three of it."""
FATES = {"deleted": 0.1, "interrupted": 0.1, "": 0.8}  # how many of the prompts
AHEAD = 3  # an order is deleted so many before its turn, or more: the server does not wait for it
MESSAGES = 5  # about a running order, until it is interrupted at the latest
PATIENCE = 300.0  # seconds without a finished prompt, until the queue counts as stuck
CLIENTS = 2


@dataclass
class Order:
    """A graph that is queued, and what became of it: "", "finished", "cancelled" or "failed"."""

    draw: Callable[[Scene], None]
    prompt: str
    run: int
    fate: str  # "", "deleted" while it waits or "interrupted" while it runs, as it was chosen
    at: int  # deleted when the order of this number starts, interrupted at the message of this number about it
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    ended: str = ""
    why: str = ""
    results: list = field(default_factory=list)

    @property
    def graph(self) -> dict:
        """Another one for the host's cache than the same for another run."""
        return graphs.graph(self.draw, self.prompt, self.run)

    @property
    def same(self) -> str:
        """Equal for orders with equal results."""
        return f"{self.draw.__name__}: {self.prompt}"


def orders(number: int, seed: int) -> list[Order]:
    """So many of them, and which are to be cancelled."""
    chance = random.Random(seed)
    drawn: list[tuple[Callable, str]] = []
    while len(drawn) < number:
        block = chance.sample(BLOCK, len(BLOCK))
        for start in range(0, len(block), 3):
            drawn += [(graphs.plain, DOG), *block[start : start + 3]]
    asked = []
    for run, (draw, prompt) in enumerate(drawn[:number], 1):
        (fate,) = chance.choices(list(FATES), list(FATES.values()))
        latest = max(1, run - AHEAD) if fate == "deleted" else MESSAGES
        asked.append(Order(draw, prompt, run, fate, chance.randint(1, latest)))
    return asked


def measure(serve: Callable[[], AbstractContextManager[str]], number: int = 200, seed: int = 0) -> dict:
    """`figures`, and what went wrong in words, `findings`. `serve` gives the address of a server (see `serving`)."""
    asked = orders(number, seed)
    with serve() as url:
        alone = {it.same: it for it in reversed(asked)}
        expected = {name: result_alone(url, it) for name, it in alone.items()}
    with serve() as url:
        began = time.monotonic()
        asyncio.run(everything(url, asked))
        seconds = time.monotonic() - began
        held = {it["prompt"]: it for it in serving.held_after_prompts(url)}
        for it in asked:
            look(url, it)
    stuck = [it for it in asked if not it.ended]
    failed = [it for it in asked if it.ended == "failed"]
    drifted = [it for it in asked if it.ended == "finished" and it.results != expected[it.same]]
    growth = {kind: growth_of(kind, asked, held) for kind in ("tensors", "resident")}
    ends = {end: sum(it.ended == end for it in asked) for end in ("finished", "cancelled", "failed", "")}
    return {
        "figures": {
            "queued_prompts": len(asked), "drifted_outputs": len(drifted), "memory_growth_ratio": max(growth.values()),
            "tensor_growth_ratio": growth["tensors"], "finished_prompts": ends["finished"],
            "cancelled_prompts": ends["cancelled"], "failed_prompts": len(failed), "stuck_prompts": len(stuck),
            "load_seconds": seconds,
        },
        "findings": [f"{it.run} ({it.same}) {what} {it.why}" for what, them in
                     (("is stuck", stuck), ("failed:", failed), ("has drifted", drifted)) for it in them],
        "held": [held[it.id] for it in asked if it.id in held],
    }  # fmt: skip


def result_alone(url: str, order: Order) -> list:
    """What it gives where nothing else is in memory."""
    free(url)
    return graphs.results(url, order.graph, run_graph(url, order.graph))


async def everything(url: str, asked: list[Order]) -> None:
    """Queue all, cancel some, and wait until none is left, or nothing has ended for PATIENCE seconds."""
    import aiohttp

    async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as open_sockets:
        names = [uuid.uuid4().hex for _ in range(CLIENTS)]
        for name in names:
            connected = session.ws_connect(f"{url}/ws?clientId={name}", max_msg_size=0)
            socket = await open_sockets.enter_async_context(connected)
            open_sockets.callback(asyncio.create_task(heed(socket, url, asked)).cancel)
        await asyncio.gather(*(asyncio.to_thread(fill, url, asked[i::CLIENTS], name) for i, name in enumerate(names)))
        last, left = time.monotonic(), len(asked)
        while left and time.monotonic() - last < PATIENCE:
            now = json.loads(await asyncio.to_thread(request, f"{url}/prompt"))["exec_info"]["queue_remaining"]
            if now < left:
                last, left = time.monotonic(), now
            await asyncio.sleep(0.2)


async def heed(socket: Any, url: str, asked: list[Order]) -> None:
    """Take in what the server sends, as a page does, and cancel each order when its moment has come."""
    known, heard = {it.id: it for it in asked}, Counter[str]()
    async for message in socket:
        if not isinstance(message.data, str):
            continue
        event = json.loads(message.data)
        if (about := known.get(event["data"].get("prompt_id"))) is None:
            continue
        heard[about.id] += 1
        if about.fate == "interrupted" and heard[about.id] == about.at:
            await asyncio.to_thread(interrupt, url, about.id)
        if event["type"] == "execution_start":  # what was due before as well: it may not have been queued yet
            due = [it.id for it in asked if it.fate == "deleted" and it.at <= about.run]
            await asyncio.to_thread(request, f"{url}/queue", {"delete": due})


def fill(url: str, its: list[Order], client: str) -> None:
    """Queue a client's orders."""
    for it in its:
        request(f"{url}/prompt", {"prompt": it.graph, "prompt_id": it.id, "client_id": client})


def look(url: str, it: Order) -> None:
    """Note what became of an order."""
    found = json.loads(request(f"{url}/history/{it.id}")).get(it.id)
    if found is None:
        it.ended = "cancelled" if it.fate == "deleted" else ""
        return
    messages = {name: data for name, data in found["status"]["messages"]}
    if found["status"]["completed"]:
        it.ended, it.results = "finished", graphs.results(url, it.graph, found["outputs"])
    elif "execution_interrupted" in messages and it.fate == "interrupted":
        it.ended = "cancelled"
    else:
        it.ended, it.why = "failed", str(messages.get("execution_error", {}).get("exception_message", messages.keys()))


def growth_of(kind: str, asked: list[Order], held: dict[str, dict]) -> float:
    """What was held behind plain graphs in the last quarter, in units of the second quarter's."""
    plain = [held[it.id][kind] for it in asked if it.draw is graphs.plain and it.id in held]
    quarter = max(1, len(plain) // 4)
    return median(plain[-quarter:]) / median(plain[quarter : 2 * quarter])
