"""What the Comfy registry gets, and that it works where nothing else of the repository is."""

import re
import shutil
import subprocess
import zipfile

import pytest
from comfy_cli.registry.config_parser import extract_node_configuration
from PIL import Image
from real_host import HOST, REPOSITORY

from dev.archive import FOLDERS, build, changes_to_publish
from dev.archive.smoke_test import smoke_test
from dev.console import DevError

MUST = {"__init__.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE", "nodes/", "unguide_ops/",
        "demo_model/", "prompts/cat.json", "locales/de/", "workflows/forget-the-cat.json",
        "workflows/forget-the-cat.jpg", "web/presets.js", "web/docs/images/", "docs/sampling.md",
        "demo_model/judges/a.safetensors"}  # fmt: skip
MUST_NOT = r"\.|tests/|output/|dev/|docs/.*\.(jpg|png)$|.*(__pycache__|\.pyc$)"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return build(tmp_path_factory.mktemp("archive"))


@pytest.fixture
def registry_config(capsys):
    """The configuration that the registry gets, by its own tool, which warns of what it does not understand."""
    config = extract_node_configuration(str(REPOSITORY / "pyproject.toml"))
    assert capsys.readouterr() == ("", "")
    return config


@pytest.fixture
def repository(tmp_path):
    """One that may be published as v1.2.3."""
    project = '[project]\nname = "it"\nversion = "1.2.3"\n[tool.comfy]\nPublisherId = "somebody"\n'
    (tmp_path / "pyproject.toml").write_text(project, encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## 1.2.3\n\n- New.\n\n## 1.2.2\n\n- Old.\n", encoding="utf-8"
    )
    me = ["-c", "user.name=it", "-c", "user.email=it"]
    for command in (["init", "-q"], ["add", "."], [*me, "commit", "-qm", "it"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_it_holds_what_an_installed_pack_needs_and_nothing_else(archive):
    names = zipfile.ZipFile(archive).namelist()
    assert not [must for must in MUST if not any(name.startswith(must) for name in names)]
    assert not [name for name in names if re.match(MUST_NOT, name)]


def test_the_same_files_make_the_same_bytes(archive, tmp_path):
    assert build(tmp_path).read_bytes() == archive.read_bytes()


def test_it_works_in_an_empty_comfyui_in_a_folder_of_another_name(archive):
    summary = smoke_test(HOST, archive, FOLDERS[1])
    assert summary.startswith("13 nodes") and summary.endswith("cat 0%, dog 100%")


def test_an_archive_that_lacks_a_help_page_does_not_pass_the_smoke_test(archive, tmp_path):
    incomplete = tmp_path / "incomplete.zip"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(incomplete, "w") as target:
        for name in source.namelist():
            if not name.startswith("web/docs/UnGuideEvaluate"):
                target.writestr(name, source.read(name))
    with pytest.raises(DevError, match="no node with a help page and texts in .*: UnGuideEvaluate"):
        smoke_test(HOST, incomplete, "unguide")


def test_the_registry_understands_its_configuration(registry_config):
    project = registry_config.project
    assert project.supported_os == ["OS Independent"] and project.supported_comfyui_version == ">=0.3.75"
    requirements = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert project.dependencies == [line for line in requirements if not line.startswith("#")]


def test_icon_and_banner_are_there_in_the_registry_s_formats(registry_config):
    urls = registry_config.tool_comfy.icon, registry_config.tool_comfy.banner_url
    icon, banner = (REPOSITORY / url.split("/main/")[1] for url in urls)
    assert Image.open(icon).size == (400, 400)
    width, height = Image.open(banner).size
    assert width * 9 == height * 21


def test_a_release_has_its_changes(repository):
    assert changes_to_publish("v1.2.3", repository) == "- New.\n"


@pytest.mark.parametrize(
    ("file", "old", "new", "tag", "refusal"),
    [
        ("pyproject.toml", "somebody", "OWNER", "v1.2.3", "in the place of OWNER"),
        ("pyproject.toml", "1.2.3", "1.2.4", "v1.2.3", "the tag is v1.2.3, but the version .* is 1.2.4"),
        ("CHANGELOG.md", "## 1.2.3", "## Unreleased", "v1.2.3", "no section `## 1.2.3`"),
        ("CHANGELOG.md", "New", "Newer", "v1.2.3", "not what was committed"),
    ],
)
def test_what_is_not_ready_is_not_published(repository, file, old, new, tag, refusal):
    path = repository / file
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(DevError, match=refusal):
        changes_to_publish(tag, repository)


def test_a_folder_that_git_does_not_know_is_not_packed(tmp_path):
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    with pytest.raises(DevError, match="comfy-cli cannot pack"):
        build(tmp_path / "out", tmp_path)
