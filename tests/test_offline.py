"""Nothing is asked of any network when the pack runs."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from real_host import HOST, REPOSITORY
from unguide.nodes import NODES

NAMESPACE = ["unshare", "--net", "--map-root-user"]


def namespaces_work():
    return shutil.which("unshare") and not subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode


@pytest.mark.slow
@pytest.mark.skipif(not namespaces_work(), reason="this system lets us make no network namespace")
def test_every_node_does_its_work_in_a_namespace_without_a_network(tmp_path):
    command = [*NAMESPACE, sys.executable, "-m", "dev.reliability.offline", str(HOST), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert not done.returncode, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert {node.GET_SCHEMA().node_id for node in NODES} <= set(told["ran"])
    assert told["kept"]
    assert told["asked_for"] == ["heard.invalid"]  # by the listener itself
