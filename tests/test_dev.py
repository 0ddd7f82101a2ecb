"""`python dev` fails with one sentence that says what to do."""

import errno
import io
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import zipfile

import pytest
from real_host import HOST, REPOSITORY

from dev import console, device, environment, hostfiles, hosts, pins
from dev.console import DevError
from dev.venv import Venv, packages_for


def run_dev(*arguments, code=None):
    """The exit code and error output of `python dev`, or of Python code run in its place."""
    start = ["-c", code] if code else [str(REPOSITORY / "dev")]
    result = subprocess.run([sys.executable, *start, *arguments], capture_output=True, text=True, timeout=120)
    return result.returncode, result.stderr.strip()


def test_a_taken_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run_dev("serve", "--port", str(port)) == (
            2,
            f"error: port {port} is taken by another program: stop that, or choose another port (0: any free one).",
        )


def test_a_port_that_is_none():
    code, error = run_dev("serve", "--port", "99999")
    assert code == 2 and error.startswith("error: 99999 is not a port")


def test_a_folder_that_is_no_comfyui(tmp_path):
    for host in (str(tmp_path), "latest"):
        code, error = run_dev("test", "--host", host)
        assert code == 2 and error == (
            f"error: `--host {host}` is not a ComfyUI folder: name the one that holds its main.py, or say `oldest` or "
            "`newest` for one that is set up for you."
        )


def test_a_host_is_a_pinned_one_or_a_folder(tmp_path):
    (tmp_path / "main.py").touch()
    assert hosts.chosen(None) == hosts.chosen(hosts.DEFAULT)
    for name in (hosts.OLDEST, hosts.NEWEST):
        host = hosts.chosen(name)
        assert host.name == name and host.folder.parent == environment.HOME and hosts.at(host.folder) == host
    host = hosts.chosen(str(tmp_path))
    assert host == hosts.Host(tmp_path) == hosts.at(tmp_path) and host.is_unpacked()
    assert host.front_end == hosts.chosen(hosts.NEWEST).front_end != hosts.chosen(hosts.OLDEST).front_end


def test_each_pinned_host_has_a_package_that_carries_it_and_a_front_end():
    sections = pins.read()
    version = {name: tuple(map(int, sections[f"host {name}"]["comfyui"].split("."))) for name in ("oldest", "newest")}
    assert version["oldest"] < version["newest"]
    assert f">={sections['host oldest']['comfyui']}" in (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    parts = {"comfyui-frontend-package", "comfyui-workflow-templates", "comfyui-embedded-docs"}
    for name in version:
        assert set(sections[hosts.pinned(name).front_end.section]) == parts
        assert not parts & set(sections["packages"])


def test_a_pinned_host_names_its_own_requirements():
    """As far as its requirements.txt pins them; only of what is set up here."""
    sections, host = pins.read(), hosts.at(HOST)
    if host.name is None:
        pytest.skip("the tests run on a developer's own ComfyUI")
    installed = {**sections["packages"], **sections[host.front_end.section]}
    required = dict(re.findall(r"^([\w-]+)==(\S+)$", (HOST / "requirements.txt").read_text(encoding="utf-8"), re.M))
    assert required and {name: installed[name] for name in required} == required
    assert f'"{sections[f"host {host.name}"]["comfyui"]}"' in (HOST / "comfyui_version.py").read_text(encoding="utf-8")


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # on a machine that has one
    code, error = run_dev("test", "--device", "cuda")
    assert code == 2 and error.startswith("error: `--device cuda` needs an NVIDIA GPU, and torch ")
    assert error.endswith("or leave `--device` out to use the CPU.") and "\n" not in error


def test_a_device_that_is_none(monkeypatch):
    monkeypatch.setenv(device.VARIABLE, "tpu")
    with pytest.raises(DevError, match="UNGUIDE_DEVICE is 'tpu': set it to cpu or cuda"):
        device.chosen()


def test_a_concept_that_is_not_there():
    code, error = run_dev("demo", "--concepts", "unicorn")
    assert code == 2 and error.startswith("error: there is no preset 'unicorn': choose from airplane, automobile")


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 9, 1), (3, 14, 0)])
def test_a_python_without_wheels(version):
    code = f"import sys, runpy; sys.version_info = {version}; sys.path.insert(0, {str(REPOSITORY)!r})\n"
    code += f"runpy.run_path({str(REPOSITORY / 'dev' / '__main__.py')!r}, run_name='__main__')"
    exit_code, error = run_dev(code=code)
    assert exit_code == 2 and error.startswith(f"error: this is Python {version[0]}.{version[1]} (64 bit)")


@pytest.mark.parametrize("version", ["2.7", "2.3.1", "1.13.1", "2.7.1.dev0", "newest"])
def test_a_torch_that_is_none(version):
    code, error = run_dev("test", "--torch", version)
    assert code == 2 and error.startswith(f"error: `--torch {version}` is no release of torch since 2.4: name one")


@pytest.mark.parametrize(
    ("torch", "torchvision", "torchaudio"),
    [("2.4.1", "0.19.1", "2.4.1"), ("2.7.1", "0.22.1", "2.7.1"), ("2.10.0", "0.25.0", "2.10.0"),
     ("2.13.1", "0.28.1", "2.11.0")],
)  # fmt: skip
def test_another_torch_has_an_environment_with_the_other_packages_as_pinned(torch, torchvision, torchaudio):
    venv, usual = environment.venv_with(torch), Venv(environment.VENV)
    assert venv.folder == environment.HOME / f"torch-{torch}"
    sections = pins.read().sections()
    changed = set().union(*(set(venv.packages(name)) - set(usual.packages(name)) for name in sections))
    expected = {f"torch=={torch}", f"torchvision=={torchvision}", f"torchaudio=={torchaudio}"}
    assert changed == expected - set(usual.packages("packages"))


def test_what_is_built_for_the_pinned_torch_is_as_pinned():
    packages = pins.read()["packages"]
    assert packages_for(packages["torch"]) == {name: packages[name] for name in ("torch", "torchvision", "torchaudio")}
    assert environment.venv_with(packages["torch"]) == Venv(environment.VENV)


def test_what_runs_under_another_torch_starts_commands_under_it(monkeypatch, tmp_path):
    (tmp_path / "torch-2.7.1").mkdir()
    monkeypatch.setattr(environment, "HOME", tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "torch-2.7.1"))
    assert environment.venv_with(None) == environment.venv_with("2.7.1")
    assert environment.venv_with(None).inside() and not environment.venv_with("2.9.1").inside()


def test_an_environment_of_other_versions_is_not_taken_for_this(tmp_path):
    venv, newer = Venv(tmp_path, {"torch": "2.7.1"}), Venv(tmp_path, {"torch": "2.9.1"})
    venv.python.parent.mkdir()
    venv.python.touch()
    assert not venv.has("packages") and not venv.was_complete()
    venv.mark("packages")
    assert venv.has("packages") and not venv.has("sweep") and not newer.has("packages") and newer.was_complete()
    venv.unmark()
    assert not venv.has("packages") and not venv.was_complete()


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_every_pin_has_a_wheel_for_every_python(tmp_path, version):
    venv = environment.venv_with(None)
    front_ends = [venv.packages(hosts.pinned(name).front_end.section) for name in (hosts.OLDEST, hosts.NEWEST)]
    front_ends.append(venv.packages(hosts.FrontEnd(hosts.LATEST).section))
    sections = [name for name in pins.read().sections() if not name.startswith(("host ", "front end ", "recipe"))]
    shared = sorted({package for section in sections for package in venv.packages(section)})
    install = ["install", "-q", "--dry-run", "--ignore-installed", "--no-deps", "--target", str(tmp_path)]
    for packages in (shared, *front_ends):  # without the recipe's, which are for 3.11 and later
        wheels = ["--only-binary", ":all:", "--python-version", version, *packages]
        result = subprocess.run([*venv.pip, *install, *wheels], capture_output=True, text=True, timeout=250)
        assert not result.returncode, result.stderr[-1000:]


OTHER_HASH = """ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated the
    it==1 from https://files/it-1.tar.gz (from -r wanted.txt (line 1)):
        Expected sha256 0e2
             Got        0f1

WARNING: another thing
"""


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("NewConnectionError: [Errno 111] Connection refused\nERROR: No matching distribution found for torch==1",
         "connect to the network"),
        ("ERROR: No matching distribution found for torch==9.9.9", "no torch==9.9.9 for this Python"),
        (OTHER_HASH, "it==1 has the SHA-256 0f1, but dev/pins.ini expects 0e2: get it from a package index"),
        ("OSError: [Errno 28] No space left on device", "make room"),
        ("The virtual environment was not created: ensurepip is not available.", "python3-venv"),
        ("something else", "something else"),
    ],
)  # fmt: skip
def test_what_pip_says_becomes_advice(output, advice):
    assert advice in console.explain("installing", output) and "\n" not in console.explain("installing", output)


def test_a_disk_without_room(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 10**8))
    with pytest.raises(DevError, match="has 0.1 GB free, but the set-up needs"):
        environment.check_space()
    assert "is full: make room" in environment.explain_os_error(OSError(errno.ENOSPC, "No space left on device"))


def archive_of(path, *names):
    """A wheel or a tar.gz of files that hold their own names."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w") as wheel:
            for name in names:
                wheel.writestr(name, name)
    else:
        with tarfile.open(path, "w:gz") as source:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = len(name)
                source.addfile(member, io.BytesIO(name.encode()))
    return path


@pytest.mark.parametrize("archive", ["it.whl", "it.tar.gz"])
def test_only_the_host_is_unpacked_and_no_path_leads_out(tmp_path, archive):
    names = ["setup.py", "a/hosts/main.py", "a/host/main.py", "a/host/comfy/it.py", "a/host/stray.yaml"]
    target = tmp_path / "host"
    hostfiles.unpack(archive_of(tmp_path / archive, *names), "a/host", target, leave_out="stray.yaml")
    files = {path.relative_to(target).as_posix(): path.read_text() for path in target.rglob("*") if path.is_file()}
    assert files == {"main.py": "a/host/main.py", "comfy/it.py": "a/host/comfy/it.py"}
    for unsafe in ("a/host/../../it.py", "a/host//etc/it.py", "a/host/C:/it.py", "a/host/comfy\\..\\..\\it.py"):
        with pytest.raises(DevError, match=r"holds the unsafe path 'a/host/"):
            hostfiles.unpack(archive_of(tmp_path / archive, unsafe), "a/host", target)
