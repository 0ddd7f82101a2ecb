"""Whatever goes wrong, wherever: the host is as it was before, and nothing half-done is left."""

import pytest

from dev.reliability import faults


@pytest.mark.parametrize("case", faults.CASES, ids=str)
def test_after_a_fault_all_is_as_before(case):
    assert faults.run(case) == []
