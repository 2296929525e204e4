"""A version that was imported is told as one, and large parameters by their size."""

from __future__ import annotations

import json
import re

from millstream_server import app
from millstream_server.cli.import_model import IMPORTED
from millstream_server.core.model import ModelState, ModelVersion, SignedArtifact
from millstream_server.core.models_by_hand import import_version
from millstream_server.core.run import Attempt, Run

from .conftest import RunCommand

NOW_MS = 1_800_000_000_000
PARAMS = json.dumps({"imported_from": "/models/spam", "imported_by": "ada@desk", "flavors": ["python_function"] * 40})


def save(ports: app.Ports, number: int) -> None:
    """Import a version without files, and let it answer."""
    run = f"run-{number}"
    made = Run(
        run=run,
        tenant="acme",
        pipeline="spam",
        package="spam",
        model="spam",
        state="SUCCEEDED",
        idempotency_key=run,
        params=PARAMS.encode(),
        attempt=1,
        max_attempts=1,
        created_ms=NOW_MS,
        started_ms=NOW_MS,
        ended_ms=NOW_MS,
        release="1.0.0",
        build_id="1.0.0+abc",
        model_version=number,
        attempts=(Attempt(1, IMPORTED, "1.0.0", "1.0.0+abc", NOW_MS, NOW_MS, "succeeded"),),
    )
    signed = SignedArtifact("{}", "c2ln", "00ff")
    version = ModelVersion(number, "spam", "1.0.0", "1.0.0+abc", run, 1, f"acme.spam/{run}-1", signed, NOW_MS, params_json=PARAMS)
    state = ports.store.model("acme", "spam") or ModelState("acme", "spam")
    assert ports.store.save_import(made, import_version(state, version, "ada@desk", champion=True))


def test_an_imported_version_is_told_as_one(ports: app.Ports, millstream: RunCommand) -> None:
    """Where it is deleted nobody trained it; its parameters, and those of its run, have one short line for each large one."""
    for number in (1, 2, 3):
        save(ports, number)
    ports.close()

    asked = millstream("models", "delete", "acme.spam", "--version", "1")
    shown = [millstream("models", "show", "acme.spam"), millstream("runs", "show", "run-1")]

    assert asked.returncode == 2
    assert re.search(r"  v1, imported \S+ \S+, answers with spam==1\.0\.0: 0 files, 0 bytes in ", asked.stderr)
    assert "trained" not in asked.stderr
    for said in shown:
        assert 'params     imported_from: "/models/spam"\n' in said.stdout
        assert "flavors: 40 items, 721 bytes; all of it: --json\n" in said.stdout
        assert json.loads(PARAMS)["flavors"][0] + '","' not in said.stdout
