"""Faults in a real server, through its HTTP API: it goes on, or begins again where it was killed."""

from __future__ import annotations

import atexit
import functools
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dev.client import GraphError, GraphInterruptedError, run_graph
from dev.reliability import graphs, serving
from dev.reliability.graphs import CAT, DOG, Scene
from dev.reliability.traps import BROKEN, ERROR, FULL, INTERRUPT, KILL, MEMORY
from dev.server import HostServer, request

RAISED = {ERROR: "TrapError", MEMORY: "OutOfMemoryError", FULL: "OSError", BROKEN: "OSError"}
UNFINISHED = "*.unguide-part"


@dataclass(frozen=True)
class ServerPhase:
    """A graph, and where in the server it goes wrong; as `faults.Phase`."""

    name: str
    draw: Callable[[Scene], None]
    place: str
    at: int = 1
    after: str = ""
    faults: tuple[str, ...] = ()
    keeps: bool = False


PHASES = (
    ServerPhase("a server steering", graphs.own_sampler, "layer", 6, faults=(ERROR, MEMORY)),
    ServerPhase("a server in the gate", graphs.any_sampler, "layer", 3, faults=(INTERRUPT,)),
    ServerPhase("a server's guider", graphs.guider, "layer", 6, faults=(INTERRUPT,)),
    ServerPhase("a server training", graphs.train, "optimizer", 3, faults=(INTERRUPT, MEMORY), keeps=True),
    ServerPhase("a server training, killed", graphs.train, "optimizer", 3, faults=(KILL,)),
    ServerPhase("a server calibrating what it trained", graphs.train, "layer", 3, "nodes.training:calibrate",
                faults=(ERROR,), keeps=True),
    ServerPhase("a server saving", graphs.save, "os:fsync", faults=(FULL, KILL)),
)  # fmt: skip


class Servant:
    """A server that is begun again when it was killed, with a LoRA to use."""

    def __init__(self, host: Path, lora: Path):
        self._host, self._lora = host, lora
        self._folder = Path(tempfile.mkdtemp(prefix="unguide-faults-"))
        self._server: HostServer | None = None
        self.loras = self._folder / "models" / "loras"
        self.runs = itertools.count(1)
        atexit.register(self.stop)

    @property
    def url(self) -> str:
        """Where it answers."""
        if self._server is None or self._server.process is None or self._server.process.poll() is not None:
            if self._server:
                self._server.stop()
            self._server = serving.server_of(self._host, self._folder, self._lora).__enter__()
        return self._server.url

    def stop(self) -> None:
        """For good."""
        if self._server:
            self._server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def draw(self, draw: Callable[[Scene], None], prompt: str = CAT) -> list:
        """What a graph gives; see `graphs.results`."""
        asked = graphs.graph(draw, prompt, next(self.runs))
        return graphs.results(self.url, asked, run_graph(self.url, asked))

    @functools.cached_property
    def picture(self) -> list:
        """A plain one, when nothing has gone wrong yet. The model is loaded then, as behind every case."""
        return self.draw(graphs.plain, DOG)

    def wait_for_its_end(self) -> None:
        """Until it is gone."""
        if self._server:
            self._server.wait()

    def files(self) -> set[Path]:
        """All in its loras folder."""
        return {path for path in self.loras.rglob("*") if path.is_file()}


@functools.cache
def servant(host: Path, lora: Path) -> Servant:
    """The one of this process."""
    return Servant(host, lora)


def run(it: Servant, phase: ServerPhase, fault: str) -> list[str]:
    """What is wrong after the fault, in sentences."""
    before, files = it.picture, it.files()
    serving.set_trap(it.url, fault, phase.place, phase.at, phase.after)
    problems = about_the_error(fault, error_of(it, phase))
    if fault == KILL:
        it.wait_for_its_end()
    serving.set_trap(it.url, fault, "")
    problems += about_files(it, files, phase.keeps)
    try:
        it.draw(graphs.own_sampler if phase.draw is graphs.train else phase.draw)
    except GraphError as error:
        problems.append(f"afterwards it cannot be done: {error}")
    if it.draw(graphs.plain, DOG) != before:
        problems.append("a plain picture is not the same as before")
    left = [path.name for path in it.loras.rglob(UNFINISHED)]
    return [*problems, *(f"{name} is left for good" for name in left)]


def error_of(it: Servant, phase: ServerPhase) -> GraphError | None:
    """How the graph ends."""
    try:
        it.draw(phase.draw)
    except GraphError as error:
        return error
    return None


def about_the_error(fault: str, error: GraphError | None) -> list[str]:
    """Whether the client is told what has happened."""
    if fault == INTERRUPT:
        right = isinstance(error, GraphInterruptedError)
    elif fault == KILL:
        right = error is not None and error.exception_type is None
    else:
        right = error is not None and RAISED[fault] in (error.exception_type or "")
    return [] if right else [f"the graph ended with {error!r}"]


def about_files(it: Servant, before: set[Path], kept: bool) -> list[str]:
    """Whether just what was trained so far is new, the loader lists nothing else, and what is unfinished grows old."""
    new = it.files() - before
    whole = {path for path in new if not path.match(UNFINISHED)}
    problems = [f"{path.relative_to(it.loras)} is left" for path in whole if not kept or "cancelled" not in path.parts]
    if kept and not whole:
        problems.append("what was trained so far is lost")
    loader = json.loads(request(f"{it.url}/object_info/UnGuideLoadLoRA"))["UnGuideLoadLoRA"]
    listed = {it.loras / name for name in loader["input"]["required"]["lora_name"][1]["options"]}
    if listed != {path for path in it.files() if path.suffix == ".safetensors"}:
        problems.append(f"the loader lists {sorted(listed)}")
    for path in new - whole:  # what a killed server has left: the next to save here removes it, an hour later
        os.utime(path, (0, 0))
    return problems
