"""Untrusted files and names: each is taken, or refused in one sentence, soon, in little memory; nothing is run."""

import csv
import os
import pickle
import re

import pytest
import torch
from real_host import HOST
from sweep_report import write_sweep_report
from unguide.unguide_ops import host
from unguide.unguide_ops.concept_lora import ConceptLoRA
from unguide.unguide_ops.guidance.config import SteeringConfig
from unguide.unguide_ops.guidance.unguidance import unguide
from unguide.unguide_ops.lora.low_rank import LowRankPair
from untrusted_files import corpus, headers, metadata, names, parsers, pickled, texts, weights
from untrusted_files.builders import file
from untrusted_files.sandbox import needs_fork, open_file, run_in_child

from dev.console import DevError
from dev.sweep.plan import Plan, Settings

SECONDS = 2.0  # of the processor that opening one should take
MEMORY = 500 << 20  # bytes that opening one may take
LONGEST = 700  # characters of an error
TABLES = {"pickle": pickled.CASES, "safetensors": headers.CASES, "metadata": metadata.CASES, "weights": weights.CASES,
          "concept": texts.CONCEPTS, "list": texts.LISTS, "name": names.CASES}  # fmt: skip
CASES = [pytest.param(*case, id=f"{group}: {name}") for group, table in TABLES.items() for name, case in table.items()]


def problems_of(name, outcome, expected):
    """What is wrong with how a file was opened; the error should match `expected`, and name the file."""
    error, message = outcome["error"], outcome["message"]
    problems = [f"it does {event}" for event in outcome.get("tried", ())]
    if (peak := outcome.get("peak", 0)) > MEMORY:
        problems.append(f"it takes {peak >> 20} MiB")
    if not expected:
        return [*problems, f"{error}: {message}"] if error else problems
    if error != "ValueError" or not re.search(expected, message, re.DOTALL):
        problems.append(f"{error or 'taken'}: {message[:LONGEST]!r}, not ValueError: {expected!r}")
    elif name not in message or len(message) > LONGEST:
        problems.append(f"it does not name {name}, or is long: {message[:LONGEST]!r}")
    return problems


def open_in_child(folder, parser, build, expected):
    """The outcome of opening a file, and what is wrong with it."""
    arguments = build(folder)
    before = {*folder.rglob("*")}
    outcome = run_in_child(open_file, parser, arguments)
    problems = problems_of(arguments[0].name if parser in parsers.FILES else "", outcome, expected)
    return outcome, problems + [f"it leaves {path}" for path in {*folder.rglob("*")} ^ before]


@needs_fork
@pytest.mark.parametrize(("parser", "build", "expected"), CASES)
def test_a_hostile_file_ends_as_it_must(tmp_path, record_figure, parser, build, expected):
    record_figure("untrusted_files", cases=1)
    outcome, problems = open_in_child(tmp_path, parser, build, expected)
    assert not problems
    # no clock here: only what never ends fails. For `bench reliability`, what takes too long has not passed
    record_figure("untrusted_files", passed=int(outcome["seconds"] < SECONDS), peak_mib_hostile=outcome["peak"] / 2**20,
                  slowest_hostile_seconds=outcome["seconds"])  # fmt: skip


def unpickle(path):
    return pickle.loads(path.read_bytes())  # noqa: S301 - that is what is to be noticed


@needs_fork
@pytest.mark.parametrize(
    ("parser", "content", "message"),
    [
        (unpickle, pickled.Payload(os.mkdir, "executed"), "it does .*os.mkdir"),
        (lambda path: open(f"{path}.new", "w").close(), None, "it does open.*it leaves .*new"),
        (lambda path: bytearray(2 * MEMORY), None, "MiB"),
        (lambda path: os._exit(3), None, "dies"),
        (lambda path: 1 / 0, None, "ZeroDivisionError"),
    ],
)
def test_what_a_file_must_not_do_is_noticed(monkeypatch, tmp_path, parser, content, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(parsers.PARSERS, "careless", parser)
    _, problems = open_in_child(tmp_path, "careless", file("it", pickle.dumps(content)), "")
    assert re.search(message, "; ".join(problems))


def test_a_prompt_that_the_host_cannot_take_apart_is_refused_in_words(clip):
    with pytest.raises(ValueError, match="too many brackets in brackets: take some out"):
        host.encode(clip, "(" * 1500 + "a" + ")" * 1500)


@pytest.mark.parametrize("w", [-1.0, 0.0])
def test_a_lora_that_overflows_in_sampling_is_an_error_and_no_picture(model, sample, w):
    down, up, _ = (torch.full_like(tensor, 1e30) for tensor in corpus.pair().values())
    lora = ConceptLoRA({corpus.LAYER: LowRankPair(down, up, 1.0)})
    with pytest.raises(ValueError, match="There is no picture.*NaN.*use another LoRA"):
        sample(unguide(model, lora, SteeringConfig(w=w)))


def test_a_formula_in_a_prompt_list_is_text_in_the_report(tmp_path):
    (tmp_path / "list.csv").write_text("prompt,seed\n=cmd|' /C calc'!A0,-0\n@SUM(A1),2\nthe cat,3\n")
    write_sweep_report(Settings(list=tmp_path / "list.csv", output=tmp_path, host=HOST, modes=("base",)), guidance=-1.5)
    with (tmp_path / "report.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["prompt"] for row in rows] == ["'=cmd|' /C calc'!A0", "'@SUM(A1)", "the cat"]
    assert {row["guidance"] for row in rows} == {"-1.5"}  # a number stays one


def test_a_lora_whose_pictures_would_lie_elsewhere_is_refused(tmp_path):
    settings = Settings(list=tmp_path, output=tmp_path, host=HOST, loras=(tmp_path / "...safetensors",))
    with pytest.raises(DevError, match="rename its file"):
        Plan(settings)
