"""Whatever goes wrong, wherever: the host is as it was before, and nothing half-done is left."""

import pytest
from real_host import HOST

from dev.bench import reliability
from dev.reliability import faults


@pytest.mark.parametrize("case", faults.CASES, ids=str)
def test_after_a_fault_all_is_as_before(case):
    assert faults.run(case) == []


def test_the_benchmark_keeps_what_other_parts_have_found(tmp_path, monkeypatch):
    found = {"faults": {"fault_cases": 2, "fault_failures": 1}, "load": {"queued_prompts": 200}}
    for name, figures in found.items():
        monkeypatch.setitem(
            reliability.PARTS, name, lambda *_, it=figures: {"figures": dict(it), "problems": {"a case": ["why"]}}
        )
        whole = reliability.measure(None, None, tmp_path / "it", HOST, [name], 0.0)
    assert whole["figures"] == {**found["faults"], **found["load"]}
    assert "faults, a case: ['why']" in (tmp_path / "it.md").read_text(encoding="utf-8")
