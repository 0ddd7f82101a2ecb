"""What a GPU would refuse is found without one: a LoRA's whole life on a device whose tensors mix with no others."""

import os
import subprocess
import sys
from pathlib import Path

from real_host import REPOSITORY


def test_a_lora_s_whole_life_on_another_device():
    """Trained, calibrated, probed and sampled with, in each way, encoded prompts on either device."""
    tests = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tests), str(REPOSITORY)))}
    ran = subprocess.run([sys.executable, tests / "life_elsewhere.py"], env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
