"""Prompt lists: what a row means, and that a bad one is told with its number and loses no other."""

import folder_paths
import pytest
from unguide.nodes.concept import UnGuideConcept
from unguide.nodes.prompt_list import UnGuidePromptList
from unguide.unguide_ops import host

HEADER = b"prompt,evaluation_seed,evaluation_guidance,categories\n"


def test_an_input_folder_that_cannot_be_listed_leaves_the_nodes_as_they_are(input_folder, monkeypatch, caplog):
    for name in ("gone", "file"):
        (input_folder / "file").touch()
        monkeypatch.setattr(folder_paths, "input_directory", str(input_folder / name))
        assert UnGuidePromptList.define_schema().inputs[0].options == ["everyday.csv (ships with UnGuide)"]
        assert UnGuideConcept.define_schema()
        assert f"The input folder ({input_folder / name}) cannot be listed" in caplog.text


def test_model_folders_that_cannot_be_listed_leave_the_nodes_as_they_are(monkeypatch, caplog):
    def forbidden(kind):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folder_paths, "get_filename_list", forbidden)
    assert host.lora_files() == host.clip_files() == []
    assert "The folders of loras cannot be listed" in caplog.text


def test_what_is_listed_is_read_whatever_the_case_of_its_suffix(input_folder, clip):
    (input_folder / "C.JSON").write_text('{"target": "the moon", "reference": "a forest"}')
    (input_folder / "L.CSV").write_text("prompt\na cat\n")
    (input_folder / ".json").write_text("{}")
    (input_folder / "folder.json").mkdir()
    options = UnGuidePromptList.define_schema().inputs[0].options
    assert options[1:] == ["C.JSON", "L.CSV"]
    for name in options:
        assert UnGuidePromptList.execute(name, 0, 1, 0, 7.5).args[0]
    (combo,) = [it for it in UnGuideConcept.define_schema().inputs if it.id == "preset"]
    assert "C.JSON" in combo.options and ".json" not in combo.options
    assert UnGuideConcept.execute(clip, "C.JSON", "", "", "", "").args[0].concept.target == "the moon"
    assert UnGuideConcept.fingerprint_inputs(preset="C.JSON") != "C.JSON"


@pytest.fixture
def input_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    return tmp_path


def test_the_node_hands_on_a_part_of_the_rows_and_fills_in_what_is_missing(input_folder):
    (input_folder / "mine.csv").write_bytes(HEADER + b"a,1,2,x\n,,,\nb,,,\nc,3,4,x\n")
    prompts, seeds, guidance, indices, names = UnGuidePromptList.execute("mine.csv", 1, 2, 10, 5.0).args
    assert (prompts, seeds, guidance, indices, names) == (["b"], [12], [5.0], [2], ["000002-b"])
    shipped = UnGuidePromptList.execute("everyday.csv (ships with UnGuide)", 0, 100, 0, 7.5).args
    assert len(shipped[0]) == 24
    for file, message in (("../mine.csv", "There is no"), ("gone.csv", "There is no")):
        with pytest.raises(ValueError, match=message):
            UnGuidePromptList.execute(file, 0, 5, 0, 7.5)
    with pytest.raises(ValueError, match="row 3: `prompt` is empty"):
        UnGuidePromptList.execute("mine.csv", 1, 1, 0, 7.5)


def test_any_prompt_file_in_the_input_folder_is_a_preset(input_folder, clip):
    (input_folder / "mine.json").write_text('{"target": "the moon", "reference": "a forest", "synonyms": ["luna"]}')
    (combo,) = [it for it in UnGuideConcept.define_schema().inputs if it.id == "preset"]
    assert "mine.json" in combo.options
    concept = UnGuideConcept.execute(clip, "mine.json", "", "a lake", "", "").args[0].concept
    assert (concept.target, concept.reference, concept.synonyms) == ("the moon", "a lake", ("luna",))


def test_a_random_seed_is_the_node_s_own_plus_the_row(input_folder):
    (input_folder / "mine.csv").write_bytes(b"prompt,seed\na,-1\nb,7\nc,-1\n")
    assert UnGuidePromptList.execute("mine.csv", 0, 9, 100, 5.0).args[1] == [100, 7, 102]


def test_sizes_that_the_list_was_made_for_are_told(input_folder):
    (input_folder / "mine.csv").write_bytes(b"prompt,width,height\na,512,768\nb,512,768\nc,64,64\nd,,\n")
    told = UnGuidePromptList.execute("mine.csv", 0, 9, 100, 5.0).ui.as_dict()["text"][0]
    assert told == "4 rows\nmade for 512 x 768, 64 x 64 pixels: set that where the size is set"
