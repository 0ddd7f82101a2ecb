"""Talk to a running ComfyUI: run a graph and follow it, fetch a picture, interrupt, free the memory.

A graph is in the API format: {node_id: {"class_type": ..., "inputs": {...}, "_meta": {"title": ...}}}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from urllib.parse import urlencode

import aiohttp

from dev.console import DevError
from dev.server import request

Graph = dict[str, dict[str, Any]]
OnEvent = Callable[[str, dict[str, Any]], None]
PREVIEW, TEXT = 1, 3  # kinds of binary messages


class GraphError(DevError):
    """A graph that the host refused or could not finish.

    `node_id` and `class_type` name the first node at fault, `exception_type` and `traceback` (lines) what it
    raised. They are None or empty where they do not apply.
    """

    def __init__(
        self, message: str, node_id: str | None = None, class_type: str | None = None,
        exception_type: str | None = None, traceback: Sequence[str] = ()
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.node_id, self.class_type, self.exception_type = node_id, class_type, exception_type
        self.traceback = list(traceback)


class GraphInterruptedError(GraphError):
    """A graph that was interrupted."""


def run_graph(url: str, graph: Graph, on_event: OnEvent | None = None) -> dict[str, dict[str, Any]]:
    """Run `graph` to its end and return {node_id: what the node showed}, as the host's history has it.

    `on_event(name, data)` gets each message about this graph (`progress_state`, `executing`, `executed` ...), and
    `preview` ({"image": JPEG or PNG}) and `progress_text` ({"node", "text"}) while it runs. Raises GraphError if the
    host refuses the graph or a node fails, GraphInterruptedError if it is interrupted. If the call is abandoned
    (Ctrl-C, an error in `on_event`), the host stops working on the graph.
    """
    return asyncio.run(_run_graph(url, graph, on_event))


async def _run_graph(url: str, graph: Graph, on_event: OnEvent | None) -> dict[str, dict[str, Any]]:
    client = uuid.uuid4().hex
    prompt = ""
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
            async with session.ws_connect(f"{url}/ws?clientId={client}", max_msg_size=0) as socket:
                async with session.post(f"{url}/prompt", json={"prompt": graph, "client_id": client}) as answer:
                    reply = await answer.json()
                    if answer.status != 200:
                        raise refusal(reply, graph)
                prompt = reply["prompt_id"]
                await follow(socket, prompt, graph, on_event)
            async with session.get(f"{url}/history/{prompt}") as answer:
                return (await answer.json())[prompt]["outputs"]
    except aiohttp.ClientError as error:
        raise GraphError(f"no ComfyUI answers at {url} ({error}): start one.") from error
    except GraphError:
        raise
    except BaseException:
        if prompt:
            with contextlib.suppress(OSError):
                interrupt(url, prompt)
        raise


async def events(socket: aiohttp.ClientWebSocketResponse) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """The name and data of each message on a ComfyUI's websocket, with `preview` and `progress_text` for binary ones.

    A binary message is four bytes of kind, then what it shows; it does not say which graph it is about.
    """
    async for message in socket:
        if isinstance(message.data, str):
            event = json.loads(message.data)
            yield event["type"], event["data"]
            continue
        kind, body = int.from_bytes(message.data[:4], "big"), message.data[4:]
        if kind == PREVIEW:
            yield "preview", {"image": body[4:]}
        elif kind == TEXT:
            end = 4 + int.from_bytes(body[:4], "big")
            yield "progress_text", {"node": body[4:end].decode(), "text": body[end:].decode()}


async def follow(socket: aiohttp.ClientWebSocketResponse, prompt: str, graph: Graph, on_event: OnEvent | None) -> None:
    """Read the messages about `prompt` until the host has ended it; raises the error among them."""
    failure: GraphError | None = None
    async for name, data in events(socket):
        if name not in ("preview", "progress_text") and data.get("prompt_id") != prompt:
            continue
        if on_event:
            on_event(name, data)
        if name == "execution_error":
            node = label(graph, data["node_id"], data["node_type"])
            text = f"node {node} failed: {data['exception_type']}: {data['exception_message'].strip()}"
            failure = GraphError(text, *(data[key] for key in ("node_id", "node_type", "exception_type", "traceback")))
        elif name == "execution_interrupted":
            node = label(graph, data["node_id"], data["node_type"])
            failure = GraphInterruptedError(f"interrupted in node {node}.", data["node_id"], data["node_type"])
        elif name == "executing" and data["node"] is None:
            if failure:
                raise failure
            return
    raise failure or GraphError("ComfyUI ended while it ran the graph: see its log.")


def refusal(reply: dict[str, Any], graph: Graph) -> GraphError:
    """The error for a graph that did not pass the host's validation."""
    faults = []
    for node_id, node in reply.get("node_errors", {}).items():
        where = label(graph, node_id, node["class_type"])
        faults += [(f"node {where}: {sentence(error)}", node_id, node["class_type"]) for error in node["errors"]]
    if not faults:
        return GraphError(f"the host refused the graph: {sentence(reply['error'])}")
    texts = "; ".join(text for text, *_ in faults)
    return GraphError(f"the host refused the graph: {texts}", *faults[0][1:])


def sentence(error: dict[str, Any]) -> str:
    """The message of a validation error, with its details."""
    return f"{error['message']} ({error['details']})" if error.get("details") else str(error["message"])


def label(graph: Graph, node_id: str, class_type: str) -> str:
    """A node's id with its class, and its title if it has one."""
    title = title_of(graph, node_id)
    return f"{node_id} ({class_type}, {title!r})" if title else f"{node_id} ({class_type})"


def title_of(graph: Graph, node_id: str) -> str:
    """The title of a node, or an empty string."""
    return str(graph.get(node_id, {}).get("_meta", {}).get("title", ""))


def fetch_image(url: str, image: dict[str, str]) -> bytes:
    """The file of a picture, as a node's `images` list it: {"filename", "subfolder", "type"}."""
    return request(f"{url}/view?{urlencode({key: image[key] for key in ('filename', 'subfolder', 'type')})}")


def interrupt(url: str, prompt: str | None = None) -> None:
    """Stop the graph that the host runs now; with `prompt`, only that one, which may also still wait in the queue."""
    if prompt:
        request(f"{url}/queue", {"delete": [prompt]})
    request(f"{url}/interrupt", {"prompt_id": prompt} if prompt else {})


def free(url: str) -> None:
    """Unload the models and forget cached results, so that the next graph runs from scratch."""
    request(f"{url}/free", {"unload_models": True, "free_memory": True})
