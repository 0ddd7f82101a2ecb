"""A real server to do things to: with the pack, a LoRA, and a view of its inside; one that was killed starts again."""

import functools
import itertools
import json
import shutil
from pathlib import Path

from node_graphs import CAT, DOG, LORA, NodeGraph, graph_of, results
from real_host import HOST

from dev.client import run_graph
from dev.environment import make_base
from dev.server import HostServer, request


class RestartingServer:
    """A context manager. `url` starts the server if it does not run."""

    def __init__(self, base: Path, lora: Path | None = None):
        """`base` is the folder of its data; the file `lora` is copied into its loras folder."""
        make_base(base)
        nodes = Path(__file__).with_name("instrumentation_nodes")
        (base / "custom_nodes" / nodes.name).symlink_to(nodes, target_is_directory=True)
        self.loras = base / "models" / "loras"
        self.loras.mkdir(parents=True)
        if lora:
            shutil.copy(lora, self.loras / LORA)
        self._server = HostServer(HOST, base)
        self._runs = itertools.count(1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.stop()

    @property
    def url(self) -> str:
        if self._server.process is None or self._server.process.poll() is not None:
            self._server.stop()
            self._server.__enter__()
        return self._server.url

    def run(self, draw, prompt: str = CAT) -> list:
        """The results of a graph; see node_graphs.results."""
        graph = graph_of(draw, prompt, next(self._runs))
        return results(self.url, graph, run_graph(self.url, graph))

    @functools.cached_property
    def plain_picture(self) -> list:
        """A plain picture when nothing has gone wrong yet. It loads the model, in which faults are injected."""
        return self.run(NodeGraph.plain, DOG)

    def set_fault(self, kind: str, place: str, at: int = 1, after: str = "") -> None:
        """Inject a fault into the server (see fault_injection.py) in place of the one before; without a place, none."""
        request(f"{self.url}/instrumentation/fault", {"kind": kind, "place": place, "at": at, "after": after})

    def held_after_prompts(self) -> dict[str, dict]:
        """What the server held behind each prompt, by its id: {"prompt", "tensors", "resident"}."""
        return {held["prompt"]: held for held in json.loads(request(f"{self.url}/instrumentation/memory"))}

    def asked_for(self) -> list[str]:
        """All addresses that something in the server has asked for, beyond this machine."""
        return json.loads(request(f"{self.url}/instrumentation/addresses"))

    def listed_loras(self) -> set[Path]:
        """The files that Load LoRA offers."""
        loader = json.loads(request(f"{self.url}/object_info/UnGuideLoadLoRA"))["UnGuideLoadLoRA"]
        return {self.loras / name for name in loader["input"]["required"]["lora_name"][1]["options"]}

    def files(self) -> set[Path]:
        return {path for path in self.loras.rglob("*") if path.is_file()}

    def wait(self) -> None:
        self._server.wait()
