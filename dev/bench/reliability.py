"""What goes wrong, put to the proof: faults in every phase, load, files and words from strangers, LoRAs, fuzzing."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from dev.inprocess import start_scratch_host


def measure(workers, each, path: Path, host: Path, parts: Sequence[str], minutes: float) -> dict:
    """`figures`, and what each part found; `path` holds them, and those of parts that ran before, as they end."""
    from dev.bench import report

    kept = path.with_suffix(".json")
    whole: dict = {"figures": {}}
    for name in parts:
        found = PARTS[name](workers, each, host, minutes)
        if kept.is_file():  # read now: another run may have added to it meanwhile
            whole = json.loads(kept.read_text(encoding="utf-8"))
        whole["figures"] |= {figure: round(value, 4) for figure, value in found.pop("figures").items()}
        whole[name] = found
        report.write(path, whole, text(whole))
    return whole


def faults(workers, each, host: Path, minutes: float) -> dict:
    """Every case of `faults.CASES`."""
    from dev.reliability import faults

    found = each(workers, "Faults", put_in, [(number, host) for number in range(len(faults.CASES))])
    problems = {it["name"]: it["problems"] for it in found if it["problems"]}
    return {"figures": {"fault_cases": len(found), "fault_failures": len(problems)}, "problems": problems}


def put_in(number: int, host: Path) -> dict:
    """A task for a worker: what is wrong after one of the faults."""
    began = time.monotonic()
    begin(host)
    from dev.reliability import faults

    case = faults.CASES[number]
    try:
        problems = faults.run(case)
    except Exception as error:  # one case is no reason to know nothing of the others
        problems = [f"{type(error).__name__}: {error}"]
    return {"name": str(case), "problems": problems, "seconds": time.monotonic() - began}


def begin(host: Path) -> None:
    """A host in this process, on one thread."""
    start_scratch_host(host)
    import torch

    torch.set_num_threads(1)


def load(workers, each, host: Path, minutes: float) -> dict:
    """A queue of 200 prompts."""
    (found,) = each(workers, "Load", queue_up, [(host,)])
    return found


def queue_up(host: Path) -> dict:
    """A task for a worker: `load.measure` on new servers."""
    begin(host)
    from dev.reliability import load, serving
    from dev.reliability.stage import stage

    lora = stage().loras / stage().file

    @contextmanager
    def serve() -> Iterator[str]:
        with tempfile.TemporaryDirectory() as folder, serving.server_of(host, Path(folder), lora) as server:
            yield server.url

    return load.measure(serve)


def strangers(workers, each, host: Path, minutes: float) -> dict:
    """Every case of `strangers.cases`."""
    from dev.reliability import strangers

    found = each(workers, "Strangers", open_one, [(number, host) for number in range(len(strangers.cases()))])
    problems = {it["name"]: it["message"] for it in found if not it["ok"]}
    return {
        "figures": {
            "hostile_files": len(found),
            "hostile_failures": len(problems),
            "peak_mib_hostile": max(it["peak_bytes"] for it in found) / 2**20,
            "slowest_hostile_seconds": max(it["seconds"] for it in found),
        },
        "problems": problems,
    }


def open_one(number: int, host: Path) -> dict:
    """A task for a worker: what became of a stranger's file."""
    from dev.reliability import strangers

    return asdict(strangers.run(strangers.cases()[number], host))


def unsteered(workers, each, host: Path, minutes: float) -> dict:
    """LoRAs of kinds that cannot act, by every way, w and side: whose picture comes unsteered without an error."""
    found = each(workers, "Unsteered", draw_unfit, [(number, host) for number in range(PARALLEL)])
    problems = {name: problem for it in found for name, problem in it["problems"].items()}
    return {
        "figures": {"unfit_cases": sum(it["cases"] for it in found), "silent_unsteered": len(problems)},
        "problems": problems,
    }


def draw_unfit(number: int, host: Path) -> dict:
    """A task for a worker: every so manieth case of `unfit.cases`."""
    begin(host)
    import torch

    from dev.reliability import unfit
    from dev.reliability.stage import stage

    cases = [*unfit.cases(stage().model)][number::PARALLEL]
    with torch.inference_mode():
        problems = {case[0]: problem for case in cases if (problem := unfit.run(stage(), *case))}
    return {"cases": len(cases), "problems": problems}


def injections(workers, each, host: Path, minutes: float) -> dict:
    """Script in every word that a stranger may write, in the page of a server and in reports."""
    (found,) = each(workers, "Injections", inject, [(host,)])
    return found


def inject(host: Path) -> dict:
    """A task for a worker: `injections.try_page` on both canvases, and `try_reports`."""
    begin(host)
    from dev import browser
    from dev.environment import make_base
    from dev.reliability import injections
    from dev.reliability.stage import stage
    from dev.server import HostServer

    browser.get()
    if not browser.find():
        return {"figures": {}, "problems": {"no browser": browser.ADVICE}}
    found = injections.Found()
    with tempfile.TemporaryDirectory() as folder:
        base, reports = make_base(Path(folder) / "base"), Path(folder) / "reports"
        reports.mkdir()
        injections.fill(base, stage().loras / stage().file)
        with HostServer(host, base) as server, browser.comfy_page(server.url) as comfy:
            for nodes_2 in (False, True):
                comfy.open(nodes_2=nodes_2)
                found.add(injections.try_page(comfy))
            found.add(injections.try_reports(comfy.page, reports, host))
    return {"figures": found.figures(), "problems": {str(number): it for number, it in enumerate(found.ran)}}


def fuzz(workers, each, host: Path, minutes: float) -> dict:
    """Every parser for so many minutes."""
    from dev.reliability import fuzz

    found = each(workers, "Fuzzing", fuzz.fuzz, [(parser, minutes * 60, 0, host) for parser in fuzz.PARSERS])
    counts = dict(zip(fuzz.PARSERS, found, strict=True))
    crashes = sum(len(it["crashes"]) for it in counts.values())
    return {"figures": {"fuzz_minutes": minutes * len(counts), "fuzz_crashes": crashes}, "parsers": counts}


PARALLEL = 4  # tasks that the cases of `unfit` are dealt out to
PARTS = {"faults": faults, "load": load, "strangers": strangers, "unsteered": unsteered, "injections": injections,
         "fuzz": fuzz}  # fmt: skip


def text(whole: dict) -> str:
    """The report as Markdown."""
    lines = ["| figure | value |", "|---|---|", *(f"| `{name}` | {it:g} |" for name, it in whole["figures"].items())]
    for part in ("faults", "strangers", "unsteered", "injections"):
        for name, problem in whole.get(part, {}).get("problems", {}).items():
            lines += ["", f"{part}, {name}: {problem}"]
    for problem in whole.get("load", {}).get("findings", ()):
        lines += ["", f"load, prompt {problem}"]
    for parser, found in whole.get("fuzz", {}).get("parsers", {}).items():
        lines += ["", f"{parser}: {found['tried']} inputs, {found['refused']} refused, {found['accepted']} accepted, "
                      f"{len(found['crashes'])} crashes"]  # fmt: skip
    return "\n".join(lines) + "\n"
