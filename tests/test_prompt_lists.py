"""Prompt lists: what a row means, and that a bad one is told with its number and loses no other."""

import csv
import tracemalloc

import folder_paths
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unguide.nodes.concept import UnGuideConcept
from unguide.nodes.prompt_list import UnGuidePromptList
from unguide.unguide_ops.prompt_lists import LISTS, LONGEST_LINE, Problem, Row, read_prompt_list

HEADER = b"prompt,evaluation_seed,evaluation_guidance,categories\n"


def read(path, content=None):
    if content is not None:
        path.write_bytes(content)
    return list(read_prompt_list(path))


texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=200).filter(
    str.strip
)
rows = st.tuples(texts, st.none() | st.integers(0, 2**64 - 1), st.none() | st.floats(0, 100))


@given(st.lists(rows, max_size=8, unique_by=lambda it: it[0].strip()), st.sampled_from(",;\t"))
def test_what_a_csv_writer_wrote_is_read(tmp_path_factory, rows, delimiter):
    path = tmp_path_factory.mktemp("lists") / "list.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["number", "prompt", "evaluation_seed", "evaluation_guidance", "name"])
        writer.writerows([number, *row, "../../climb"] for number, row in enumerate(rows))
    found = read(path)
    assert [(it.prompt, it.seed, it.guidance) for it in found] == [(prompt.strip(), *rest) for prompt, *rest in rows]
    assert [it.index for it in found] == list(range(len(rows)))
    names = [it.name for it in found]
    assert len(set(names)) == len(names) and all(name.replace("-", "").isalnum() and name.isascii() for name in names)
    assert all(it.more["name"] == "../../climb" for it in found)


def test_json_in_the_authors_layout_and_arrays(tmp_path):
    path = tmp_path / "list.json"
    concept = read(path, b'{"target": "a", "reference": "b", "synonyms": ["c"], "other": ["d", ""]}')
    assert [it.prompt for it in concept] == ["a", "c", "d", ""]
    first, second = read(path, b'["a", {"prompt": "b", "evaluation_seed": 3, "theme": "x"}]')
    assert (first.prompt, first.seed) == ("a", None)
    assert (second.prompt, second.seed, second.more) == ("b", 3, {"theme": "x"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b",5,7.5,x", "`prompt` is empty"),
        (b"a,-1,7.5,x", "`evaluation_seed` ('-1')"),
        (b"a,many,7.5,x", "`evaluation_seed` ('many')"),
        (b"a,5,nan,x", "`evaluation_guidance` ('nan')"),
        (b"a,5,7.5,x,y", "has 5 cells, the header 4"),
        (b"caf\xe9,5,7.5,x", "is not UTF-8"),
        (b"first,1,7.5,x", "repeats row 2"),
        (b"a" * (LONGEST_LINE + 5), "longer than"),
        (b"a" * 30_000 + b",5,7.5,x", "larger than field limit"),
    ],
)
def test_a_bad_row_is_told_with_its_number_and_the_others_are_read(tmp_path, line, message):
    first, bad, last = read(tmp_path / "list.csv", HEADER + b"first,1,7.5,x\n" + line + b"\nlast,2,7.5,x\n")
    assert isinstance(bad, Problem) and str(bad).startswith("row 3: ") and message in str(bad)
    assert (first.prompt, last.prompt, last.index) == ("first", "last", 2)


def test_a_quote_that_is_never_closed_does_not_swallow_the_rest(tmp_path):
    many = b"".join(b"picture %d,%d,7.5,x\n" % (it, it) for it in range(5000))
    found = read(tmp_path / "list.csv", HEADER + b'"open,1,7.5,x\n' + many)
    assert "quote" in str(found[0]) and sum(isinstance(it, Row) for it in found) > 3500


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.csv", b"text,seed\na,1\n", "has no column `prompt`"),
        ("list.csv", b"", "has no column `prompt`"),
        ("list.csv", "prompt\na\n".encode("utf-16"), "CSV UTF-8"),
        ("list.json", b"{", "Invalid JSON"),
        ("list.json", b'{"target": "a"}', "reference: Field required"),
        ("list.json", b"[1, 2]", "array of prompts"),
        ("list.txt", b"a", "ends in .csv or .json"),
    ],
)
def test_a_file_that_is_no_list_is_refused_with_the_way_out(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path / name, content)


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "list.csv"
    with path.open("wb") as file:
        file.write(HEADER)
        for _ in range(100):
            file.write(b"x" * 1_000_000)  # one line of 100 MB
        file.write(b"\n" + b"".join(b"picture %d,%d,7.5,x\n" % (it, it) for it in range(5000)))
    tracemalloc.start()
    assert sum(isinstance(it, Row) for it in read_prompt_list(path)) == 5000
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_the_shipped_list_has_no_bad_row():
    assert all(isinstance(it, Row) and it.seed and it.guidance for it in read(LISTS / "everyday.csv"))


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
