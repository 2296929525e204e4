"""The mirror whose helper or server dies, hangs, or is refused: every call has an end, and the next one works."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from millstream_server.adapters.mlflow import MlflowMirror
from millstream_server.core.errors import Failed, Unavailable
from mirror_cases import STORE, Place, shown_model, shown_run

from blackbox.mlflow import MlflowServer
from blackbox.processes import process

pytestmark = pytest.mark.xdist_group("mirror")

IMPATIENT = (120.0, 3.0, 0.0)
"""Deadlines of calls that meet something frozen; the start of a helper has its usual time."""


@pytest.mark.parametrize("place", ["embedded"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_helper_that_dies_or_hangs_is_replaced(place: Place, tenant: str, number: signal.Signals) -> None:
    """The call that met it has failed by its deadline, nothing of it is left, and the same call then works."""
    mirror = place.another(deadlines_s=IMPATIENT)
    mirror.write_run(shown_run(tenant))
    helper = mirror.pid
    os.kill(helper, number)
    if number == signal.SIGKILL:
        while (found := process(helper)) is not None and found.state != "Z":
            time.sleep(0.01)

    if number == signal.SIGSTOP:
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="did not answer within 3 s"):
            mirror.write_model(shown_model(tenant, 1, 1))
        assert time.monotonic() - begun < 20.0
    mirror.close()
    again = place.another()
    again.write_model(shown_model(tenant, 1, 1))
    again.close()

    assert process(helper) is None
    assert place.client(f"len(client.search_model_versions(\"name = '{tenant}.churn'\"))") == 1


@pytest.mark.parametrize("place", ["server"], indirect=True)
def test_a_server_that_is_killed_is_told_and_met_again(place: Place, server: MlflowServer, tenant: str) -> None:
    """Every call says that it cannot be written now; the same mirror goes on when it is back."""
    place.mirror.write_model(shown_model(tenant, 1, 1))

    server.kill()
    for call in (lambda: place.mirror.write_run(shown_run(tenant)), place.mirror.moved):
        with pytest.raises(Unavailable) as refused:
            call()
        assert refused.value.code == "mirror_unavailable"
        assert server.url in refused.value.message
    server.start()
    place.mirror.write_model(shown_model(tenant, 2, 2, revision=2))

    assert str(place.client(f"client.get_registered_model('{tenant}.churn').aliases['champion']")) == "2"


def test_a_database_that_is_none_is_told(tmp_path: Path) -> None:
    """Somebody wrote over the embedded one: the error names the place, and a new one is made where it is put aside."""
    (tmp_path / "mlflow.db").write_bytes(b"no database at all" * 100)
    mirror = MlflowMirror("", tmp_path, STORE)

    with pytest.raises(Unavailable, match=str(tmp_path)):
        mirror.write_run(shown_run("acme"))
    assert mirror.pid == 0
    shutil.move(tmp_path / "mlflow.db", tmp_path / "aside")
    mirror.write_run(shown_run("acme"))
    mirror.close()

    assert (tmp_path / "mlflow.db").stat().st_size > 100_000


def test_a_login_is_never_told(tmp_path: Path) -> None:
    """An address may hold one; errors and status name the server without it."""
    mirror = MlflowMirror("http://ada:s3cret@127.0.0.1:9/x", tmp_path, STORE)

    with pytest.raises((Unavailable, Failed)) as refused:
        mirror.write_run(shown_run("acme"))
    mirror.close()

    assert "s3cret" not in str(refused.value) + mirror.target
    assert mirror.target == "http://127.0.0.1:9/x"


def test_a_closed_mirror_starts_nothing(tmp_path: Path) -> None:
    """Its node is ending."""
    mirror = MlflowMirror("", tmp_path, STORE)
    mirror.close()

    with pytest.raises(Unavailable, match="this node is ending"):
        mirror.write_run(shown_run("acme"))
