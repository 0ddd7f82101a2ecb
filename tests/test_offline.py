"""Nothing is asked of any network when the pack runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from real_host import HOST, REPOSITORY
from unguide.nodes import NODES

from dev import hosts

NAMESPACE = ["unshare", "--net", "--map-root-user"]


def namespaces_work():
    return shutil.which("unshare") and not subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode


@pytest.mark.slow
@pytest.mark.skipif(not namespaces_work(), reason="this system lets us make no network namespace")
def test_every_node_does_its_work_in_a_namespace_without_a_network(tmp_path):
    script = Path(__file__).with_name("run_offline.py")
    command = [*NAMESPACE, sys.executable, str(script), str(tmp_path / "base")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), hosts.VARIABLE: str(HOST)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert not done.returncode, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert {node.GET_SCHEMA().node_id for node in NODES} <= set(result["ran"])
    assert result["saved"]
    assert result["asked_for"] == ["heard.invalid"]  # by the server's instrumentation itself
