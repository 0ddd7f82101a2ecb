"""Sweeps: the same pictures however often they are killed and whoever draws them."""

import argparse
import contextlib
import json
import re
import sqlite3
import subprocess
import sys
import urllib.parse

import pytest
import torch
from PIL import Image, ImageChops
from real_host import HOST, REPOSITORY
from unguide.unguide_ops.files.lora_file import save_lora

import dev.sweep
from dev.bench.sweep import SweepProcess, identical, kill_a_worker, list_of
from dev.console import DevError
from dev.sweep.plan import Plan, RenderJob, Settings
from dev.sweep.renderer import png_of
from dev.sweep.report import summarised, write_report
from dev.sweep.results import RenderedPicture, Results
from dev.sweep.scorers import accuracies

ROWS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory, trained):
    folder = tmp_path_factory.mktemp("sweep")
    save_lora(folder / "forget.safetensors", trained)
    list_of(ROWS, folder / "list.csv")
    with (folder / "list.csv").open("a", encoding="utf-8") as file:
        file.write(",5,7.5,\n")  # a bad row
    return folder


def sweep(folder, name, *options):
    return SweepProcess(HOST, folder / "list.csv", folder / name, "--modes", "base", "ours", "lora", "--steps", "4",
                        "--lora", str(folder / "forget.safetensors"), *options)  # fmt: skip


@pytest.fixture(scope="module")
def plain(folder):
    """A sweep that nothing happened to."""
    plain = sweep(folder, "plain")
    plain.start()
    printed = plain.process.communicate()[0]
    assert plain.process.returncode == 1 and f"left out: row {ROWS + 2}: `prompt` is empty" in printed
    return plain


def test_a_sweep_draws_every_row_by_every_column_and_reports(plain):
    report = json.loads((plain.output / "report.json").read_text())
    assert [(it["lora"], it["mode"], it["pictures"]) for it in report["summary"]] == [
        ("", "base", ROWS), ("forget", "lora", ROWS), ("forget", "ours", ROWS)]  # fmt: skip
    base, lora, ours = report["summary"]
    assert (base["evaluations"], lora["evaluations"]) == (8, 10) and 8 < ours["evaluations"] < 11
    assert ours["steered"] == pytest.approx(1 / ROWS)  # the cat
    page = (plain.output / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == 3 * ROWS and 'class="steered"' in page
    dog = "000001-a-photo-of-the-dog-s1.png"
    drawn = [Image.open(plain.output / "pictures" / column / dog) for column in ("base", "forget/ours")]
    assert ImageChops.difference(*drawn).getbbox() is None


def test_killed_in_the_middle_it_goes_on_where_it_was(folder, plain):
    killed = sweep(folder, "killed")
    for _ in range(2):
        killed.start()
        killed.wait_for(killed.drawn() + 1)
        killed.kill()
    killed.start()
    assert "pictures are there from before" in killed.process.communicate()[0]
    assert identical(plain.output, killed.output)


def test_by_ray_and_when_one_of_its_workers_is_killed(folder, plain):
    parallel = sweep(folder, "ray", "--workers", "2")
    parallel.start()
    parallel.wait_for(2)
    kill_a_worker(parallel.process.pid)
    parallel.process.communicate()
    assert identical(plain.output, parallel.output)


def test_what_cannot_be_asked_for_is_refused_with_a_sentence(folder, plain):
    cases = {
        "there is no prompt list": ["elsewhere.csv"],
        "add `--lora FILE`": [str(folder / "list.csv"), "--modes", "ours"],
        "with other settings": [str(folder / "list.csv"), "--modes", "base", "--steps", "5"],
        "has no column `prompt`": [str(REPOSITORY / "tests" / "data.csv")],
    }
    (REPOSITORY / "tests" / "data.csv").write_text("text\na\n")
    try:
        for message, arguments in cases.items():
            command = [sys.executable, str(REPOSITORY / "dev"), "sweep", *arguments, "--host", str(HOST),
                       "--output", str(plain.output if "steps" in str(arguments) else folder / "none")]  # fmt: skip
            if "--modes" not in arguments:
                command += ["--modes", "base"]
            ran = subprocess.run(command, capture_output=True, text=True)
            assert ran.returncode == 2 and message in ran.stderr and "Traceback" not in ran.stderr
    finally:
        (REPOSITORY / "tests" / "data.csv").unlink()


def settings(folder, **changes):
    return Settings(**{"list": folder / "list.csv", "output": folder, "host": HOST, "modes": ("base",), **changes})


def rendered(job, **fields):
    """A small picture for a job, with its result."""
    result = {"number": job.number, "prompt": job.prompt, "seed": job.seed, "guidance": job.guidance, "lora": job.lora,
              "mode": job.mode, "evaluations": 8, **fields}  # fmt: skip
    return RenderedPicture(png_of(torch.rand(3, 8, 8), result), result)


def test_results_are_open_to_one_process_at_a_time_and_know_their_loras(tmp_path, folder):
    job = RenderJob(0, "a", "000000-a", 1, 7.5, "base", "", {})
    lora = tmp_path / "x.safetensors"
    lora.write_bytes(b"one")
    first = settings(folder, loras=(lora,))
    with Results(tmp_path, first) as results:
        assert not results.has(job)
        results.add(job, rendered(job))
        results.add(job, rendered(job))
        with pytest.raises(DevError, match="another sweep is at work"):
            Results(tmp_path, first)
    with Results(tmp_path, settings(folder, loras=(lora,), modes=("base", "ours"), seeds=3, limit=2)) as results:
        assert results.has(job) and [result["key"] for result in results.read()] == [job.key]
    lora.write_bytes(b"two")
    with pytest.raises(DevError, match="another LoRA 'x'"):
        Results(tmp_path, first)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sweep.sqlite3").write_bytes(b"no data base " * 100)
    with pytest.raises(DevError, match="is not a sweep's database"):
        Results(tmp_path / "broken", first)


def test_a_plan_counts_what_it_draws(folder):
    plan = Plan(settings(folder, modes=("base", "ours"), loras=(folder / "forget.safetensors",), seeds=2, limit=4))
    jobs = list(plan.jobs())
    assert len(plan) == len(jobs) == len({it.key for it in jobs}) == 4 * 2 * 2
    assert [(it.seed, it.mode) for it in jobs[:3]] == [(0, "base"), (1, "base"), (1, "base")]
    with pytest.raises(DevError, match="two LoRAs are called"):
        Plan(settings(folder, loras=(folder / "forget.safetensors",) * 2))


def spoilt(change):
    def spoil(path):
        path.write_bytes(change(path.read_bytes()))

    return spoil


SPOILT = {
    "deleted": lambda path: path.unlink(),
    "emptied": spoilt(lambda its: b""),
    "cut off": spoilt(lambda its: its[:-20]),
    "with another byte": spoilt(lambda its: its[:-40] + bytes([its[-40] ^ 1]) + its[-39:]),
    "another picture": spoilt(lambda its: png_of(torch.zeros(3, 8, 8), {"number": 0})),
    "no picture": spoilt(lambda its: b"GIF89a"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_picture_that_is_not_there_as_it_was_drawn_does_not_count(tmp_path, folder, how):
    plan = Plan(settings(folder))
    first, second, *_ = plan.jobs()
    with Results(tmp_path, plan.settings) as results:
        for job in (first, second):
            results.add(job, rendered(job))
        SPOILT[how](results.picture_path(first.key))
        assert not results.has(first) and results.has(second)
        assert [it["key"] for it in results.read()] == [second.key]
        write_report(tmp_path, results, plan)
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert second.key in page and first.key not in page


def test_lines_that_were_broken_by_hand_are_put_right_by_the_pictures(tmp_path, folder):
    plan = Plan(settings(folder))
    jobs = list(plan.jobs())
    with Results(tmp_path, plan.settings) as results:
        for job in jobs:
            results.add(job, rendered(job))
    with sqlite3.connect(tmp_path / "sweep.sqlite3") as base:
        base.execute("UPDATE drawn SET number = 'x', seed = NULL, result = '{' WHERE key = ?", (jobs[0].key,))
        base.execute("INSERT INTO drawn VALUES (x'ff', NULL, NULL, NULL, NULL, '')")
    base.close()
    with Results(tmp_path, plan.settings) as results:
        assert all(map(results.has, jobs))
        write_report(tmp_path, results, plan)
        assert [it["key"] for it in results.read()] == [it.key for it in jobs]
    assert json.loads((tmp_path / "report.json").read_text())["summary"][0]["pictures"] == len(jobs)


class InstantWorkers(contextlib.nullcontext):
    """Draws at once; `fails(number)` returns or raises the error of a job that fails."""

    def __init__(self, fails=lambda number: None):
        super().__init__()
        self.fails = fails

    def draw(self, jobs):
        for number, job in enumerate(jobs):
            yield job, self.fails(number) or rendered(job)


def run_sweep(monkeypatch, folder, output, workers):
    """`dev.sweep.run` in this process with these workers."""
    monkeypatch.setattr("dev.sweep.workers.workers_for", lambda *_: workers)
    parser = argparse.ArgumentParser()
    dev.sweep.add_arguments(parser)
    options = parser.parse_args([str(folder / "list.csv"), "--output", str(output), "--modes", "base"])
    options.host = HOST
    return dev.sweep.run(options)


def no_room(number):
    if number == 2:
        raise OSError(28, "No space left on device")


FAILURES = {
    "full disk": (no_room, "cannot keep what it draws .*No space left on device.*make room"),
    "all fail": (lambda number: RuntimeError("x"), ""),
    "no checkpoint": (lambda number: DevError("there is no checkpoint"), "there is no checkpoint"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_whatever_happens_there_is_a_report_and_the_next_run_goes_on(monkeypatch, folder, tmp_path, failure, capsys):
    fails, message = FAILURES[failure]
    with pytest.raises(DevError, match=message) if message else contextlib.nullcontext():
        assert run_sweep(monkeypatch, folder, tmp_path, InstantWorkers(fails)) == 1
    assert (tmp_path / "report.html").is_file() and json.loads((tmp_path / "report.json").read_text())
    run_sweep(monkeypatch, folder, tmp_path, InstantWorkers())
    assert f"{ROWS} of {ROWS} pictures" in capsys.readouterr().out
    deleted = next((tmp_path / "pictures" / "base").glob("*.png"))
    deleted.unlink()
    run_sweep(monkeypatch, folder, tmp_path, InstantWorkers())
    said = capsys.readouterr().out
    assert f"{ROWS - 1} of {ROWS} pictures are there from before" in said and deleted.is_file()


def test_names_and_prompts_are_neither_markup_nor_wrong_addresses_on_the_page(tmp_path, folder):
    lora = tmp_path / "a#b?c%20&<img src=x onerror=alert(1)> 'it'.safetensors"
    lora.write_bytes(b"")
    rows = tmp_path / "<b>list.csv"
    rows.write_text("prompt,seed\n<script>alert(1)</script>,1\n", encoding="utf-8")
    plan = Plan(settings(folder, list=rows, modes=("ours",), loras=(lora,)))
    with Results(tmp_path, plan.settings) as results:
        for job in plan.jobs():
            results.add(job, rendered(job, seen=["<i>x</i>"]))
        write_report(tmp_path, results, plan)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not [it for it in ("<script", "<img src=x", "<b>", "<i>") if it in page]
    (address,) = set(re.findall(r'src="([^"]*)"', page))
    assert (tmp_path / urllib.parse.unquote(address)).is_file() and not set("#?<>&") & set(address)


@pytest.mark.parametrize("changes", [{"seeds": 0}, {"steps": 0}, {"cfg": float("nan")}, {"width": 0}, {"limit": 0}])
def test_settings_out_of_range_are_refused(folder, changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        settings(folder, **changes)


class Names:
    """A classifier that is certain of one name, or of none."""

    def __init__(self, sees, names):
        self.names = list(names)
        self.sees = sees if sees in names else "none"

    def logits(self, pictures):
        return torch.tensor([[10.0 * (name == self.sees) for name in self.names]])


def test_accuracies_of_a_concept_s_file_each_under_its_own_name(tmp_path):
    """A classifier without the synonyms has no accuracy among thirteen; a row without a class is not counted."""
    plan = Plan(settings(tmp_path, list=REPOSITORY / "prompts" / "cat.json"))
    ten, thirteen = plan.classes.ten, plan.classes.thirteen
    assert len(ten) == 10 and len(thirteen) == 13 and ten[0] == "cat" and "kitten" not in ten
    synonym = thirteen[-1]

    def results(sees):
        """All pictures are taken for what `sees` makes of the row's own class."""
        for job in plan.jobs():
            seen = sees(job.other_columns.get("class", ""))
            values = {
                **accuracies("judges", Names(seen, [*ten, "none"]), None, plan.classes, job),
                **accuracies("CLIP", Names(seen, thirteen), None, plan.classes, job),
            }
            yield {"lora": "cat", "mode": "ours", "evaluations": 1, "accuracies": values, **job.listed()}

    def measured(sees):
        (group,) = summarised(results(sees))
        return group.summary()["accuracies"]

    unchanged = measured(lambda its: its)
    names = ("accuracy", "mean_probability")
    both = {f"{it}_ten by {who}" for it in names for who in ("judges", "CLIP")}
    assert set(unchanged) == {"top_1 by judges", *both, *(f"{it}_thirteen by CLIP" for it in names)}
    assert unchanged["accuracy_ten by CLIP"] == {"acc_e": 1, "acc_s": 1, "acc_g": 1, "h0": 0}
    forgotten = measured(lambda its: "dog" if its == "cat" else its)
    assert all(it["h0"] == pytest.approx(1, abs=1e-3) for it in forgotten.values())
    called = measured(lambda its: synonym if its == "cat" else its)
    assert called["accuracy_thirteen by CLIP"]["acc_e"] == 0 and called["top_1 by judges"]["h0"] == 1
    assert summarised(results(lambda its: its))[0].summary()["pictures"] == len(plan)
    assert Plan(settings(tmp_path, list=REPOSITORY / "prompts" / "lists" / "everyday.csv")).classes.ten == ()
