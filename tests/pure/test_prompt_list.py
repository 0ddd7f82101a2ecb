"""Prompt lists: what a row means, and that a bad one is told with its number and loses no other."""

import csv
import tracemalloc
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unguide.unguide_ops.files import prompt_list, prompt_rows
from unguide.unguide_ops.files.prompt_list import LISTS, Problem, Row, read_prompt_list
from unguide.unguide_ops.files.text_lines import LONGEST_LINE

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
    assert all(it.other_columns["name"] == "../../climb" for it in found)


def test_json_in_the_authors_layout_and_arrays(tmp_path):
    path = tmp_path / "list.json"
    concept = read(path, b'{"target": "a", "reference": "b", "synonyms": ["c"], "other": ["d", ""]}')
    assert [it.prompt for it in concept] == ["a", "c", "d", ""]
    first, second = read(path, b'["a", {"prompt": "b", "evaluation_seed": 3, "theme": "x"}]')
    assert (first.prompt, first.seed) == ("a", None)
    assert (second.prompt, second.seed, second.other_columns) == ("b", 3, {"theme": "x"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b",5,7.5,x", "`prompt` is empty"),
        (b"a,-2,7.5,x", "`evaluation_seed` ('-2')"),
        (b"a,1.5,7.5,x", "`evaluation_seed` ('1.5')"),
        (b"a,1.2E+09,7.5,x", "`evaluation_seed` ('1.2E+09')"),
        (b"a,True,7.5,x", "`evaluation_seed` ('True')"),
        (b"a,5,-1,x", "`evaluation_guidance` ('-1')"),
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
        ("list.csv", b"Text;Seed Number\na;1\n", "has no column `prompt`.*'Text, Seed Number'.*Call the one"),
        ("list.csv", b"sep=;\nwords;seed\na;1\n", "has no column `prompt`.*'words, seed'"),
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


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_rows_before_the_offset_are_passed_by_unread_and_not_kept(tmp_path, monkeypatch, name):
    path, read = tmp_path / name, []
    line = b"picture %d,%d,7.5,x\n" if name == "list.csv" else b'{"prompt": "picture %d", "seed": %d}\n'
    path.write_bytes((HEADER if name == "list.csv" else b"") + b"".join(line % (it, it) for it in range(50_000)))
    functions = ((prompt_list, "_check_row"), (prompt_rows, "_by_column"), (prompt_rows, "check_parts"))
    for module, function in functions:
        plain = getattr(module, function)
        monkeypatch.setattr(module, function, lambda *its, plain=plain: read.append(1) or plain(*its))
    tracemalloc.start()
    found = list(islice(read_prompt_list(path, 49_990), 5))
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
    assert [(it.index, it.prompt) for it in found] == [(it, f"picture {it}") for it in range(49_990, 49_995)]
    assert len(read) == 2 * len(found)


@pytest.mark.parametrize(("name", "content"), [
    ("list.csv", b'prompt,seed\na,1\n\n"b\nb",2\n,3\n"open,4\nc,5\nd,6\n' + b"x" * (LONGEST_LINE + 5) + b"\ne,7\n"),
    ("list.jsonl", b'"a"\n\n[1]\n{"prompt": "b"}\n"c"\n'),
    ("list.json", b'["a", {"prompt": "b"}, {"text": "c"}, "d"]'),
])  # fmt: skip
def test_behind_an_offset_are_the_rows_that_are_there_without_it(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    every = read(tmp_path / name)
    for offset in range(len(every) + 2):
        assert list(read_prompt_list(tmp_path / name, offset)) == every[offset:]


def test_the_shipped_list_has_no_bad_row():
    assert all(isinstance(it, Row) and it.seed and it.guidance for it in read(LISTS / "everyday.csv"))


I2P = (
    "prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,sd_safety_percentage,"
    "prompt_toxicity,lexica_url,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height,sd_model"
)
REST = "hate,0,0.0,0.0,0.0,0.0,0.1,https://example.com"


def test_i2p_as_its_authors_publish_it(tmp_path):
    """One prompt with many seeds is as many rows: 241 of its 4,703."""
    lines = [f"a house,{REST},{seed},{cfg},{width},512,1.5" for seed, cfg, width in
             [(11, 7, 512), (12, 7, 512), (12, 9, 512), (12, 9, 768), (12, 9, 768)]]  # fmt: skip
    *rows, last = read(tmp_path / "i2p.csv", "\n".join([I2P, *lines]).encode())
    assert [(it.seed, it.guidance, it.width, it.height) for it in rows] == [
        (11, 7.0, 512, 512), (12, 7.0, 512, 512), (12, 9.0, 512, 512), (12, 9.0, 768, 512)]  # fmt: skip
    assert str(last) == "row 6: repeats row 5"
    assert rows[0].other_columns["categories"] == "hate" and rows[0].other_columns["sd_model"] == "1.5"


def test_what_papers_draw_i2p_with_goes_before_what_its_authors_found(tmp_path):
    header = b"case_number,prompt,sd_seed,evaluation_seed,sd_guidance_scale,evaluation_guidance\n"
    first, second = read(tmp_path / "i2p.csv", header + b"0,a,1,2,3,4\n1,b,1,,3,\n")
    assert (first.seed, first.guidance, first.other_columns["sd_seed"]) == (2, 4.0, "1")
    assert (second.seed, second.guidance) == (1, 3.0)  # an empty cell says nothing


@pytest.mark.parametrize(
    ("name", "header", "line"),
    [
        ("i2p.csv", "prompt,sd_seed,sd_guidance_scale", "a cat,7,5.5"),
        ("unlearndiffatk.csv", "case_number,prompt,evaluation_seed,evaluation_guidance", "0,a cat,7,5.5"),
        ("p4d.csv", ",prompt,categories,sd_guidance_scale,sd_seed", "0,a cat,x,5.5,7"),
        ("mma.csv", "target_prompt,adv_prompt,seed,guidance_scale", "other,a cat,7,5.5"),
        ("sneaky.csv", "adversarial prompt,Random Seed,CFG", "a cat,7,5.5"),
        ("coco.csv", "image_id,caption,seed,cfg", "1,a cat,7,5.5"),
        ("drawbench.csv", "Prompts,Category,Seed,CFG scale", "a cat,Colors,7,5.5"),
        ("partiprompts.tsv", "Prompt\tCategory\tSeed\tGuidance Scale", "a cat\tAnimals\t7\t5.5"),
        ("diffusiondb.csv", "image_name,prompt,seed,step,cfg,sampler,width,height", "x.png,a cat,7,50,5.5,8,512,512"),
        ("excel.csv", "\ufeffsep=;\r\nPrompt;SEED ;Cfg-Scale;;", "a cat;7;5,5;;"),
        ("quoted.csv", '"sep=,"\n PROMPT ,"Seed",cfgScale', '"a cat","7","5.5"'),
        ("pipes.csv", "prompt|seed|cfg", "a cat|7|5.5"),
        ("pandas.csv", ",prompt,seed,guidance", "0,a cat,7.0,5.5"),
        ("automatic.csv", "positive_prompt,seed,cfg", "a cat,7,5.5"),
    ],
)
def test_columns_are_known_by_all_names_that_public_lists_and_spreadsheets_have(tmp_path, name, header, line):
    (row,) = read(tmp_path / name, f"{header}\n{line}\n".encode())
    assert (row.prompt, row.seed, row.guidance) == ("a cat", 7, 5.5)


@pytest.mark.parametrize(
    ("cell", "seed"),
    [
        ("42.0", 42), ("42.", 42), ("42,0", 42), (" 42 ", 42), ("1,234,567", 1234567), ("1 234", 1234),
        ("1'234'567", 1234567), ("1\u202f234", 1234), ("-1", None), ("-1.0", None), ("", None), ("0", 0),
        ("18446744073709551615", 2**64 - 1),
    ],
)  # fmt: skip
def test_a_seed_is_read_as_spreadsheets_write_whole_numbers(tmp_path, cell, seed):
    (row,) = read(tmp_path / "list.csv", f'prompt,seed\na,"{cell}"\n'.encode())
    assert row.seed == seed


def test_empty_columns_behind_the_last_are_nothing_and_full_ones_are_told(tmp_path):
    first, bad, last = read(tmp_path / "list.csv", b"prompt,seed,,\na,1,,,,,\nb,2,,,x\nc,3\n")
    assert (first.prompt, first.other_columns, last.prompt) == ("a", {}, "c")
    assert str(bad) == "row 3: has 5 cells, the header 4: put quotes around a cell with a comma"


def test_a_prompt_on_several_lines_is_one_row(tmp_path):
    first, second = read(tmp_path / "list.csv", b'Prompt,Seed\n"a cat\non a mat, asleep",1\nb,2\n')
    assert first.prompt == "a cat\non a mat, asleep" and (second.prompt, second.index) == ("b", 1)


def test_json_has_the_same_names_and_says_what_is_there_in_place_of_a_prompt(tmp_path):
    rows = b'[{"Prompt": "a", "sd_seed": 42.0, "CFG scale": "7,5"}, {"caption": "b", "seed": -1}, {"text": "c"}]'
    first, second, bad = read(tmp_path / "list.json", rows)
    assert (first.seed, first.guidance, second.prompt, second.seed) == (42, 7.5, "b", None)
    assert str(bad) == "entry 3: has no `prompt`, only `text`"


def test_json_lines_are_read_one_by_one_and_bad_ones_told(tmp_path):
    lines = b'"a"\n{"prompt": "b", "seed": 3, "x": "y"}\n\n[1]\n{"prompt"\n"a"\n{"prompt": "c", "seed": -5}\n'
    first, second, *bad = read(tmp_path / "list.jsonl", lines)
    assert (first.prompt, second.prompt, second.seed, second.other_columns) == ("a", "b", 3, {"x": "y"})
    assert [str(it).split(":")[0] for it in bad] == ["line 4", "line 5", "line 6", "line 7"]
    assert "neither a text nor an object" in str(bad[0]) and "is not JSON" in str(bad[1])
    assert "repeats line 1" in str(bad[2]) and "`seed` ('-5')" in str(bad[3])
