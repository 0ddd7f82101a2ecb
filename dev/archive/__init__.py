"""`python dev archive`: the archive that the Comfy registry gets, tried in an empty ComfyUI (docs/release.md)."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from dev import PACK_NAME, ROOT
from dev.console import DevError, say

NEEDS = ("archive",)  # further sections of pins.ini
LARGEST = 25e6  # bytes
ZIP = "import sys; from comfy_cli.file_utils import zip_files; zip_files(sys.argv[1])"
FOLDERS = (PACK_NAME, "ComfyUI-UnGuide-1.0.0")  # as the Manager names it, and as GitHub's archive unpacks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `archive`."""
    output = ROOT / "output" / "archive"
    parser.add_argument("--output", metavar="DIR", type=Path, default=output, help="where to (default: output/archive)")
    parser.add_argument("--release", metavar="TAG", help="refuse what may not be published under this tag, as v0.1.0")
    parser.add_argument("--pictures", action="store_true", help="only draw the registry's icon and banner, in docs")


def run(options: argparse.Namespace) -> int:
    """Build the archive and try it, or draw the pictures."""
    from dev.archive.registry_images import draw
    from dev.archive.smoke_test import smoke_test

    if options.pictures:
        draw(options.host)
        return 0
    changes = changes_to_publish(options.release) if options.release else ""
    archive = build(options.output)
    with zipfile.ZipFile(archive) as packed:
        say(f"{archive}: {archive.stat().st_size / 1e6:.1f} MB, {len(packed.namelist())} files")
    if changes:
        archive.with_suffix(".md").write_text(changes, encoding="utf-8")
    for folder in FOLDERS:
        say(f"installed as custom_nodes/{folder}: {smoke_test(options.host, archive, folder)}")
    return 0


def build(folder: Path, root: Path = ROOT) -> Path:
    """Write the archive of the files that `comfy node publish` would upload, chosen by its own function, to `folder`.

    Names are in order and dates left out, so that the same files make the same bytes.
    """
    from comfy_cli.registry.config_parser import extract_node_configuration

    folder.mkdir(parents=True, exist_ok=True)
    project = extract_node_configuration(str(root / "pyproject.toml")).project
    archive = folder.resolve() / f"{project.name}-{project.version}.zip"
    with tempfile.TemporaryDirectory() as scratch:
        packed = Path(scratch, "node.zip")
        command = [sys.executable, "-c", ZIP, str(packed)]
        result = subprocess.run(command, cwd=root, capture_output=True, text=True)
        if result.returncode or result.stdout:  # a warning that it packs other files than git's
            raise DevError(f"comfy-cli cannot pack {root}: {result.stdout or result.stderr}")
        with zipfile.ZipFile(packed) as source, zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
            for name in sorted(source.namelist()):
                entry = zipfile.ZipInfo(name)
                entry.external_attr = 0o644 << 16
                target.writestr(entry, source.read(name), zipfile.ZIP_DEFLATED)
    if archive.stat().st_size > LARGEST:
        size = archive.stat().st_size / 1e6
        archive.unlink()
        raise DevError(f"the archive has {size:.1f} MB, more than {LARGEST / 1e6:.0f} MB: name more in .comfyignore.")
    return archive


def changes_to_publish(tag: str, root: Path = ROOT) -> str:
    """The changelog's section on this version; DevError if the files in `root` may not be published under `tag`."""
    from comfy_cli.registry.config_parser import extract_node_configuration

    version = extract_node_configuration(str(root / "pyproject.toml")).project.version
    if re.search(r"\bOWNER\b", (root / "pyproject.toml").read_text(encoding="utf-8")):
        raise DevError("pyproject.toml does not say yet whose pack this is: write who owns it in the place of OWNER.")
    if tag != f"v{version}":
        raise DevError(f"the tag is {tag}, but the version in pyproject.toml is {version}: make them agree.")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {re.escape(version)}$(.+?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if not section:
        raise DevError(f"CHANGELOG.md has no section `## {version}`: give `## Unreleased` that name.")
    status = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True)
    if status.returncode or status.stdout:
        raise DevError(f"what is here is not what was committed: {status.stderr or status.stdout}")
    return section[1].strip() + "\n"
