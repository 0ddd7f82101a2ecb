"""Prompt files of concepts, and prompt lists, that lie or are far too large."""

import json

from untrusted_files.builders import DEPTH, Builder, Table, file, nested, not_regular
from untrusted_files.corpus import CONCEPT

MALFORMED_JSON = {
    "nested": (nested().encode(), "Invalid JSON: recursion"),
    "nested lists": (b"[" * DEPTH + b"]" * DEPTH, ""),
    "nothing": (b"", "Invalid JSON"),
    "UTF-16": (json.dumps(CONCEPT).encode("utf-16"), "Invalid JSON"),
    "a lone surrogate": (b'{"target": "\\ud800", "reference": "b"}', "Invalid JSON"),
    "a NUL character": (b'{"target": "a\\u0000", "reference": "b"}', "target: holds a NUL"),
    "a number": (b"1", ""),
    "a number of 5,000 digits": (b'{"target": ' + b"9" * 5000 + b', "reference": "b"}', "Invalid JSON"),
    "1e400": (b'{"target": 1e400, "reference": "b"}', "target: "),
    "no target": (b'{"reference": "b"}', "target: Field required"),
    "a list for a target": (b'{"target": ["a"], "reference": "b"}', "target: "),
    "a target of 500,000 characters": (b'{"target": "' + b"a" * 500_000 + b'", "reference": "b"}', "target: .*2000"),
    "1,000 brackets": (b'{"target": "' + b"(" * 900 + b"a" + b")" * 900 + b'", "reference": "b"}', "brackets"),
    "a weight that is NaN": (b'{"target": "(a:nan)", "reference": "b"}', "target: gives words a weight"),
    "a weight of 1e400": (b'{"target": "a (b:1e400) c", "reference": "b"}', "target: gives words a weight"),
    "100,000 synonyms": (b'{"target": "a", "reference": "b", "synonyms": ["c"' + b',"c"' * 100_000 + b"]}", "synonyms"),
    "50,000 synonyms of the wrong kind": (
        b'{"target": "a", "reference": "b", "synonyms": [1' + b",1" * 50_000 + b"]}", "synonyms"),
    "the target as its own reference": (b'{"target": "a", "reference": "A"}', "the same"),
}  # fmt: skip
JSON_CASES = {name: (file("it.json", json), error or "it.json: ") for name, (json, error) in MALFORMED_JSON.items()}
words = " ".join(map(str, range(400)))[:400]
CONCEPTS: Table = {name: ("concept", *case) for name, case in {
    **JSON_CASES,
    "two megabytes": (file("it.json", b" " * 2_000_000), "larger than"),
    "a mark before it": (file("it.json", b"\xef\xbb\xbf" + json.dumps(CONCEPT).encode()), ""),
    "1,000 long synonyms, and as much to preserve": (file("it.json", json.dumps(
        {**CONCEPT, "synonyms": [f"{words} {number}" for number in range(1000)],
         "preserve": [f"{number} {words}" for number in range(1000)]}).encode()), ""),
    **not_regular("it.json"),
}.items()}  # fmt: skip


def table(content) -> Builder:
    return file("it.csv", content)


LISTS: Table = {name: ("prompt_list", *case) for name, case in {
    **{f"JSON, {name}": case for name, case in JSON_CASES.items()},
    "JSON, 60 MB": (file("it.json", lambda: b"[" + b" " * 60_000_000 + b"]"), "larger than"),
    "JSON, 15 million empty objects": (file("it.json", lambda: b"[{}" + b",{}" * 15_000_000 + b"]"), "parts"),
    "JSON, 2 million numbers": (file("it.json", lambda: b"[0" + b",0" * 2_000_000 + b"]"), "other things than"),
    "JSON, a deep cell": (file("it.json", b'[{"prompt": "a", "x": ' + nested().encode() + b"}]"), "recursion"),
    "JSON, seeds beyond all": (file("it.json", b'[{"prompt": "a", "seed": 1e300}]'), "seed"),
    "JSON, guidance beyond all": (file("it.json", b'[{"prompt": "a", "guidance": 1e400}]'), "guidance"),
    "JSON lines, a nested one": (file("it.jsonl", nested().encode() + b"\n"), "line 1: is not JSON"),
    "JSON lines, one of 100 MB": (file("it.jsonl", lambda: b'"' + b"x" * 100_000_000 + b'"\n'), "longer than"),
    "JSON lines, numbers": (file("it.jsonl", b"1\n" * 100_000), "line 1: is neither"),
    "a formula, as text": (table(b"prompt\n=cmd|' /C calc'!A0\n+1+1\n@SUM(A1)\n"), ""),
    "a field of 100 MB": (table(lambda: b"prompt\n" + b"x" * 100_000_000 + b"\n"), "longer than"),
    "a header of 100 MB": (table(lambda: b"prompt," * 15_000_000), "not a UTF-8 text|columns|longer"),
    "a header of 30,000 characters": (table(lambda: b"a,prompt" + b"t" * 30_000 + b"\n"), "no column `prompt`"),
    "lines that end as on no system of today": (table(b"prompt,seed\ra,1\r"), "no column `prompt`"),
    "a million columns": (table(lambda: b"prompt" + b"," * 990_000 + b"\n"), "columns"),
    "a row of a million cells": (table(lambda: b"prompt\n" + b"," * 990_000 + b"\n"), "has 990001 cells"),
    "a row on a million lines": (table(lambda: b'prompt\n"' + b'\n","' * 2_000_000), ""),
    "a quote that is never closed": (table(lambda: b'prompt\n"' + b"word\n" * 100_000), ""),
    "a NUL in the header": (table(b"pro\0mpt\na\n"), "it.csv"),
    "a NUL in a row": (table(b"prompt\na\0b\n"), "NUL"),
    "a weight that is infinite": (table(b"prompt\n(a:-inf)\n"), "`prompt`.*gives words a weight"),
    "UTF-16": (table("prompt\na\n".encode("utf-16")), "CSV UTF-8"),
    "a mark before it": (table(b"\xef\xbb\xbfprompt\na\n"), ""),
    "numbers of 5,000 digits": (table(b"prompt,seed,guidance\na," + b"9" * 5000 + b",1\n"), "seed"),
    "another suffix": (file("it.txt", b"prompt\na\n"), "ends in .csv"),
    **not_regular("it.csv"),
}.items()}  # fmt: skip
