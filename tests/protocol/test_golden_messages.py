"""What version 0.1.0 put on topics is understood as it was meant, by every later version."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
from golden import FOLDER, MODEL_STATES, messages, model_states, verdict
from millstream_server.core.model import decode_model, encode_model
from millstream_server.core.release import decode_package, encode_package
from millstream_server.core.result import decode_result, encode_result

CASES = json.loads((FOLDER / "requests.json").read_text())
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_every_spelling_of_a_request_gets_its_verdict(case: dict[str, object]) -> None:
    """The one strict decoder says of each golden record what the file says, for callers in every language."""
    value = base64.b64decode(str(case["value_base64"]))

    expected = {key: said for key, said in case.items() if key not in ("name", "value_base64")}
    assert verdict(value) == expected


@pytest.mark.parametrize(
    ("name", "decode", "encode"),
    [
        ("result-ok.json", decode_result, encode_result),
        ("result-invalid.json", decode_result, encode_result),
        ("ModelCacheEvent.json", decode_model, encode_model),
        ("ml.release.json", decode_package, encode_package),
    ],
)
def test_a_message_of_a_released_version_is_read_and_written_alike(name: str, decode: object, encode: object) -> None:
    """Reading a golden message and writing it again gives the same bytes."""
    data = (FOLDER / name).read_bytes().rstrip(b"\n")

    assert encode(decode(data)) == data  # type: ignore[operator]
    assert messages()[name] == data


@pytest.mark.parametrize("name", ["trained.json", "by-hand.json", "deleted.json"])
def test_a_state_that_people_changed_is_read_and_written_alike(name: str) -> None:
    """Who promoted, what is pinned, and that nobody answers any more: the same bytes again."""
    data = (MODEL_STATES / name).read_bytes().rstrip(b"\n")

    assert encode_model(decode_model(data)) == data
    assert model_states()[name] == data


def test_the_schemas_are_those_of_the_code() -> None:
    """`protocol/*.schema.json` say what the structs say."""
    done = subprocess.run([sys.executable, "protocol/make.py", "--check"], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
