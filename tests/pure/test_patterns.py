"""Layer patterns: what Python's own engine finds is found, and nothing that is typed there takes more than moments."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from unguide.unguide_ops import patterns
from unguide.unguide_ops.lora import target_layers
from unguide.unguide_ops.patterns import Pattern

PATH = "input_blocks.1.1.transformer_blocks.0.attn2.to_k"
PLAIN = ["attn2.to_[kv]$", r"\.attn2\.to_[kv]$", r"^input_blocks\.\d+\.1", "(to_k|to_v)$", r"attn[12]\.to_(?:q|k)$",
         "to_k", ".*attn2.*", "^(input|output)_blocks.*to_k$", r"attn2\.to_q$", r"\d{1,2}\.attn2", "(?:x|attn2)+",
         r"[^a-z]2\.", "[]a]", r"\w+?_k", "(a*)*", "(|a)+$", "(^|x)input", "o{2,}", "x{0}", "^$", "to_k$|^out", "a|",
         "x*$"]  # fmt: skip
EXPLODING = ["([a-z_.0-9]+)+!", "(a|a)*!", "(?:(?:[a-z_.0-9]+)+)+!", r"(?:\w+\.?)+!", "(.*.*.*.*.*.*.*)*!", ".*" * 250]
REFUSED = {
    "(" * 100_000: "100000 characters long", "(" * 240 + ")" * 240: "brackets in brackets", "(": "does not close",
    ")": "never opens", "[a": "cannot be read", "a**": "repeats what is repeated", r"(a)\1": "cannot be read",
    "(?!a)b": "not supported", "(?R)": "not supported", "a{1000000000}": "cannot be read", "a{101}": "up to 100",
    "(?:(?:.{100}){100}){100}": "repeats too much", "(?:a?){100}" * 40: "repeats too much", "[z-a]": "bad character",
}  # fmt: skip


@pytest.mark.parametrize("pattern", PLAIN)
def test_plain_patterns_find_what_regular_expressions_find(pattern):
    for path in (PATH, "out.2", "", "middle_block.1.transformer_blocks.11.attn1.to_q"):
        assert Pattern(pattern).is_in(path) == bool(re.search(pattern, path))


@given(st.text(alphabet=r"ab.\d[]()|*+?^${},012:", max_size=12), st.text(alphabet="ab.0", max_size=8))
def test_what_both_read_they_find_alike(pattern, text):
    try:
        ours = Pattern(pattern).is_in(text)
        assert ours == bool(re.search(pattern, text))
    except (ValueError, re.error):
        pass


@pytest.mark.parametrize("pattern", EXPLODING)
def test_patterns_that_explode_elsewhere_follow_few_ways(pattern):
    it = Pattern(pattern)
    it.is_in(PATH)
    assert it._followed <= len(it._program) * (len(PATH) + 1)


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_is_no_pattern_is_refused_in_words(pattern):
    linears = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2)})
    with pytest.raises(ValueError, match="`pattern` is .*which is not a regular expression for layers: ") as caught:
        target_layers.select_target_layers(linears, target_layers.CUSTOM, pattern)
    assert REFUSED[pattern] in str(caught.value) and len(str(caught.value)) < 400


def test_work_is_counted_over_all_layers(monkeypatch):
    monkeypatch.setattr(patterns, "MOST_WAYS", 10_000)
    it = Pattern(".*" * 100)
    with pytest.raises(ValueError, match="too many ways"):
        for _ in range(1000):
            it.is_in(PATH + "!")
