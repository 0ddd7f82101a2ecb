"""`record_figure`: writes what tests measure into the file that the environment variable UNGUIDE_FIGURES names."""

import json
import os

import pytest

VARIABLE = "UNGUIDE_FIGURES"


@pytest.fixture(scope="session")
def record_figure():
    """record_figure(name, **values) appends the line `{"name": name, **values}` of JSON to the file.

    It does nothing without the variable. Each line is one write, so processes of pytest-xdist can share a file.
    """

    def record(name: str, **values) -> None:
        if path := os.environ.get(VARIABLE):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                os.write(file, json.dumps({"name": name, **values}).encode() + b"\n")
            finally:
                os.close(file)

    return record
