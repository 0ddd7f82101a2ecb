"""`python dev gpu`: without a GPU it runs through in small, from a packed folder; a part that fails loses nothing."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import comfy.model_management
import pytest
import torch
from real_host import HOST, REPOSITORY

from dev.console import DevError
from dev.gpu import packing, suite, unpacking
from dev.gpu.cards import emulated_card
from dev.gpu.results import Results
from dev.gpu.runner import PARTS, Part, RunConfig, run_parts

FIGURES = {
    "device", "suite_failed", "sd15_unrelated_ratio_20", "sd15_erased_ratio_20", "sdxl_unrelated_ratio_20",
    "sdxl_erased_ratio_20", "bit_identical", "sd15_train_seconds", "sdxl_train_seconds", "sdxl_train_peak_gib",
    "compilations", "smallest_card_sdxl_train_gib",
}  # fmt: skip
LONG = ["flux", "compile", *(part.name for part in PARTS if part.name.startswith("vram"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A packed one for this very Python: made of what is installed, without a network."""
    folder = tmp_path_factory.mktemp("packed")
    taken = packing.pack(folder, HOST, packing.this_python())
    assert taken == sum(path.stat().st_size for path in folder.glob("*.zip")) < packing.LIMIT
    return folder


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """A Python that has torch, torchvision, numpy, scipy and their requirements, and nothing else."""
    venv = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / "bin" / "python"
    command = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    names, linked = list(packing.OWN), set()
    while names:
        name = re.split(r"[^\w.-]", names.pop())[0].lower()
        if name in linked or not any(importlib.metadata.distributions(name=name)):
            continue
        linked.add(name)
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(distribution.locate_file(top))
        names += [it for it in distribution.requires or () if "extra ==" not in it]
    return python


def run_gpu(python, *arguments):
    """The exit code and all output."""
    command = [str(python), str(REPOSITORY / "dev"), "gpu", *map(str, arguments)]
    clean = {name: it for name, it in os.environ.items() if not name.startswith(("PYTHONPATH", "UNGUIDE"))}
    process = subprocess.run(command, capture_output=True, text=True, env=clean)
    return process.returncode, process.stdout + process.stderr


def read(output):
    return json.loads((output / "gpu.json").read_text(encoding="utf-8"))


def check_run(output, code, printed, figures, parts):
    """Everything was measured, and gpu.json says that it was with tiny models."""
    log = (output / "gpu.log").read_text(encoding="utf-8", errors="replace")
    assert code == 0, printed + log[-3000:]
    content = read(output)
    assert content["figures"].keys() >= figures and content["finished"] and content["small"]
    assert list(content["parts"]) == ["machine", *parts]
    assert all(part["status"] == "done" and not _failures(part["found"]) for part in content["parts"].values())
    assert content["figures"]["device"] == 0 or torch.cuda.is_available()
    assert content["figures"]["suite_failed"] == 0 and content["figures"]["bit_identical"] == 1
    assert content["torch"] == torch.__version__ and content["host"] and content["card"]
    return content


def _failures(found):
    return [it for it in found.values() if isinstance(it, dict) and "failed" in it]


@pytest.mark.timeout(900)
def test_a_dry_run_from_a_packed_folder_on_a_bare_machine(folder, bare_python, tmp_path):
    parts = [part.name for part in PARTS if part.name not in LONG]
    ran = run_gpu(bare_python, "--packed", folder, "--device", "cpu", "--output", tmp_path, "--only", *parts)
    content = check_run(tmp_path, *ran, FIGURES - {"compilations"}, parts)
    assert content["parts"]["suite"]["found"]["passed"] == 5 and content["parts"]["suite"]["found"]["complete"]
    cards = content["parts"]["cards"]["found"]
    assert list(cards) == ["24 GiB", "16 GiB", "12 GiB", "8 GiB"] and cards["8 GiB"]["training"]["iterations"] == 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_dry_run_of_all_parts(folder, bare_python, tmp_path):
    ran = run_gpu(bare_python, "--packed", folder, "--device", "cpu", "--output", tmp_path)
    content = check_run(tmp_path, *ran, FIGURES, [part.name for part in PARTS])
    assert all(it["error"] < 1e-4 for it in content["parts"]["compile"]["found"]["eager"].values())
    low = content["parts"]["vram: novram"]["found"]
    assert low["left_in_main_memory_mib"] > 0 and low["error"] < 1e-4


@pytest.mark.slow
def test_compiled_packages_are_packed_for_another_python(tmp_path):
    other = "3.12" if packing.this_python() != "3.12" else "3.11"
    names = [name for name, _ in packing.package_files("pyyaml", other, tmp_path)]
    assert any(f"cpython-{other.replace('.', '')}" in name for name in names)
    with pytest.raises(DevError, match="pip has no wheel of pyyaml.* for Python 2.6"):
        list(packing.package_files("pyyaml", "2.6", tmp_path / "none"))


FAULTY = """
import os, signal, subprocess, sys, time

def measure(request, report):
    report(figures={request.part: 1, "shared": len(request.part)}, folder=request.folder, small=request.small)
    print("not a measurement")
    if request.part == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if request.part == "hanging":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open(os.path.join(request.folder, "child"), "w").write(str(child.pid))
        time.sleep(600)
    if request.part == "wrong":
        raise ValueError("a reason")
"""


def is_alive(process):
    """Whether a process is there, and no zombie."""
    state = Path(f"/proc/{process}/stat")
    return state.is_file() and state.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="it looks for a process in /proc")
def test_what_a_part_has_reported_is_kept_if_it_is_killed_hangs_or_fails(tmp_path):
    (tmp_path / "faulty.py").write_text(FAULTY, encoding="utf-8")
    results = Results(tmp_path / "out" / "gpu.json")
    config = RunConfig({**os.environ, "PYTHONPATH": str(tmp_path)}, tmp_path, tmp_path / "log")
    kinds = ("well", "killed", "wrong", "hanging", "last")
    well, killed, wrong, hanging, last = (Part(name, "faulty", 60) for name in kinds)
    run_parts([well, killed, wrong], results, config)
    run_parts([replace(hanging, seconds=6)], results, config)
    run_parts([last], results, config)
    results.finish()
    content = read(tmp_path / "out")
    status = {name: it["status"] for name, it in content["parts"].items()}
    assert status["well"] == status["last"] == "done" and status["hanging"] == "out of time"
    assert status["killed"].startswith("crashed (exit code -9)")
    assert status["wrong"] == "crashed (exit code 1): ValueError: a reason"
    assert content["figures"] == {**dict.fromkeys(kinds, 1), "shared": 4}  # the smallest
    assert all(it["found"] == {"folder": str(tmp_path), "small": False} for it in content["parts"].values())
    assert content["parts"]["well"]["limit"] <= 60 < content["parts"]["killed"]["limit"]  # and what the first has left
    assert not is_alive((tmp_path / "child").read_text())
    assert "not a measurement" in (tmp_path / "log").read_text()


def test_whoever_reads_finds_a_whole_file(tmp_path):
    results, read_whole, going = Results(tmp_path / "gpu.json"), 0, True
    results.begin("it", 1.0)

    def tell():
        while going:
            results.add("it", {"figures": {"a": 1}, "text": "x" * 10_000})

    thread = threading.Thread(target=tell)
    thread.start()
    try:
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            read_whole += bool(read(tmp_path)["parts"])
    finally:
        going = False
        thread.join()
    assert read_whole > 20


def test_a_card_is_emulated_for_torch_and_the_host_and_only_within_the_context(model):
    before = comfy.model_management.get_total_memory(model.load_device)
    with emulated_card(8, model.load_device):
        assert comfy.model_management.get_total_memory(model.load_device) == 8 << 30
        assert 0 < comfy.model_management.get_free_memory(model.load_device) <= 8 << 30
    assert comfy.model_management.get_total_memory(model.load_device) == before


def test_test_files_that_are_left_out_exist():
    assert all((REPOSITORY / "tests" / f"{name}.py").is_file() for name in suite.LEFT_OUT)


COLLECT = """
import subprocess, sys
from pathlib import Path
from dev.gpu import unpacking
env = unpacking.unpack(Path(sys.argv[1]), Path(sys.argv[2])).environment()
command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-p", "no:cacheprovider", *sys.argv[3:]]
sys.exit(subprocess.run(command, env=env).returncode)
"""


def test_what_all_other_test_files_import_is_packed(folder, bare_python, tmp_path):
    """One missing package would end the whole suite before its first test."""
    command = [str(bare_python), "-c", COLLECT, str(folder), str(tmp_path), *suite.files_to_run()]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert ran.returncode == 0, (ran.stdout + ran.stderr)[-3000:]


def test_what_cannot_be_done_is_said_in_a_sentence(folder, tmp_path, monkeypatch):
    with pytest.raises(DevError, match="is no packed folder: make one with `python dev gpu --pack FOLDER`"):
        unpacking.unpack(tmp_path, tmp_path / "it")
    manifest = json.loads((folder / packing.MANIFEST).read_text(encoding="utf-8")) | {"python": "3.9"}
    (tmp_path / packing.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    (tmp_path / packing.HOST_FILE).write_bytes((folder / packing.HOST_FILE).read_bytes())
    is_installed = unpacking.is_installed
    monkeypatch.setattr(unpacking, "is_installed", lambda module: module != "yaml" and is_installed(module))
    with pytest.raises(DevError, match="lacks pyyaml, and .* is packed for Python 3.9: pack it again with `--python"):
        unpacking.unpack(tmp_path, tmp_path / "it")
    monkeypatch.setattr(unpacking, "is_installed", lambda module: module != "torch")
    with pytest.raises(DevError, match="has no torch: use the one that has CUDA torch"):
        unpacking.unpack(tmp_path, tmp_path / "another")
    code, printed = run_gpu(sys.executable, "--only", "nothing", "--output", tmp_path)
    assert code == 2 and "error: there is no part 'nothing': choose from suite, sd15, " in printed
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    code, printed = run_gpu(sys.executable, "--device", "cuda", "--output", tmp_path)
    assert code == 2 and "error: `--device cuda` needs an NVIDIA GPU, and torch " in printed
