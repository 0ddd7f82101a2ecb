"""Files and names from strangers: each is taken, or refused in one sentence, soon, in little memory; nothing is run."""

import csv
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from real_host import HOST
from unguide.unguide_ops import host
from unguide.unguide_ops.lora import ConceptLoRA, LowRankPair
from unguide.unguide_ops.steering import SteeringSettings
from unguide.unguide_ops.unguidance import unguide

from dev import device
from dev.reliability import child, fuzz, parsers, seeds, strangers
from dev.reliability.hostile.making import written
from dev.reliability.hostile.pickled import Payload
from dev.stages import DevError
from dev.sweep.artist import png_of
from dev.sweep.ledger import Drawn, Ledger
from dev.sweep.plan import Plan, Settings
from dev.sweep.report import write_report

forking = pytest.mark.skipif(
    not hasattr(os, "fork") or device.chosen() != device.CPU,
    reason="each file is opened in a forked process, which cannot use the GPU of the one that it comes of",
)


@forking
@pytest.mark.parametrize("case", strangers.cases(), ids=lambda case: case.name)
def test_a_hostile_file_ends_as_it_must(case):
    # No clock: what never ends fails, not what a slow machine does. `bench reliability` holds each to two seconds.
    outcome = strangers.run(case, HOST, limit=child.PATIENCE)
    assert outcome.ok, outcome.message


def careless(path):
    return pickle.loads(Path(path).read_bytes())  # noqa: S301 - that is what is to be noticed


@forking
@pytest.mark.parametrize(
    ("opens", "content", "message"),
    [
        (careless, Payload(os.mkdir, "executed"), "it does .*os.mkdir"),
        (lambda path: open(f"{path}.new", "w").close(), None, "it does open.*it leaves .*new"),
        (lambda path: bytearray(2 * strangers.BYTES), None, "MiB"),
        (lambda path: os._exit(3), None, "dies"),
        (lambda path: 1 / 0, None, "ZeroDivisionError"),
    ],
)
def test_what_a_file_must_not_do_is_noticed(monkeypatch, tmp_path, opens, content, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(parsers.PARSERS, "careless", opens)
    case = strangers.Case("x", "careless", written("it", pickle.dumps(content)), "")
    outcome = strangers.run(case, HOST)
    assert not outcome.ok
    assert re.search(message, outcome.message), outcome.message


@forking
@pytest.mark.parametrize("parser", fuzz.PARSERS)
def test_good_files_changed_at_random_are_taken_or_refused(parser):
    counts = fuzz.fuzz(parser, 1.5, seed=0, host=HOST)
    assert not counts["crashes"]
    assert counts["accepted"] and counts["refused"] and counts["tried"] == counts["accepted"] + counts["refused"]


@forking
@pytest.mark.parametrize(
    ("opens", "message"), [(lambda path: {}[path], "KeyError"), (lambda path: os._exit(3), "exit code 3")]
)
def test_what_fuzzing_finds_is_kept_with_its_input(monkeypatch, opens, message):
    child.prepare(HOST)
    monkeypatch.setitem(parsers.PARSERS, "concept", opens)
    find = fuzz.fuzz("concept", 0.5, seed=0, host=HOST)["crashes"][0]
    assert message in find["message"] and find["name"] == "concept.json" and find["input"]


def test_a_prompt_that_the_host_cannot_take_apart_is_refused_in_words(clip):
    with pytest.raises(ValueError, match="too many brackets in brackets: take some out"):
        host.encode(clip, "(" * 1500 + "a" + ")" * 1500)


@pytest.mark.parametrize("w", [-1.0, 0.0])
def test_a_lora_that_overflows_in_sampling_is_an_error_and_no_picture(model, sample, w):
    down, up, _ = (torch.full_like(it, 1e30) for it in seeds.pair().values())
    it = ConceptLoRA({seeds.LAYER: LowRankPair(down, up, 1.0)})
    with pytest.raises(ValueError, match="There is no picture.*NaN.*use another LoRA"):
        sample(unguide(model, it, SteeringSettings(w=w)))


def test_a_formula_in_a_prompt_list_is_text_in_the_report(tmp_path):
    (tmp_path / "list.csv").write_text("prompt,seed\n=cmd|' /C calc'!A0,-0\n@SUM(A1),2\nthe cat,3\n")
    settings = Settings(list=tmp_path / "list.csv", output=tmp_path, host=HOST, modes=("base",))
    plan = Plan(settings)
    with Ledger(tmp_path, settings) as ledger:
        for job in plan.jobs():
            result = {"number": job.number, "prompt": job.prompt, "seed": job.seed, "guidance": -1.5, "lora": "",
                      "mode": "base", "evaluations": 40}  # fmt: skip
            ledger.enter(job, Drawn(png_of(torch.zeros(3, 1, 1), result), result))
        write_report(tmp_path, ledger, plan)
    with (tmp_path / "report.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [it["prompt"] for it in rows] == ["'=cmd|' /C calc'!A0", "'@SUM(A1)", "the cat"]
    assert {it["guidance"] for it in rows} == {"-1.5"}  # a number is one


def test_a_lora_whose_pictures_would_lie_elsewhere_is_refused(tmp_path):
    settings = Settings(list=tmp_path, output=tmp_path, host=HOST, loras=(tmp_path / "...safetensors",))
    with pytest.raises(DevError, match="rename its file"):
        Plan(settings)
