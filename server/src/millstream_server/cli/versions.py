"""What the commands that change a model share: the model and version that are named, who asks, and how a change is written.

A change is a function of `core.models_by_hand`, made from the state that the store has at that moment; where another change came between,
it is made anew from what is there then.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from millstream_server.app import Ports
    from millstream_server.core.model import ModelState, ModelVersion
    from millstream_server.core.release import PackageState
    from millstream_server.core.run import Run

TRIES = 50
"""Changes by others that one change of ours may lose to before we say so; each lost race is another's success."""


def key_of(text: str) -> tuple[str, str]:
    """Part TENANT.MODEL.

    Raises:
        Invalid: bad_name, it is not spelled so.
    """
    from millstream_server.core.errors import Invalid
    from millstream_server.core.names import check_name

    tenant, dot, name = text.partition(".")
    if not dot:
        raise Invalid("bad_name", f"{text!r} names no model; expected TENANT.MODEL", mend="see: millstream models list")
    return check_name("tenant", tenant), check_name("model", name)


def find_model(ports: Ports, text: str) -> ModelState:
    """The state of the model that is named.

    Raises:
        Invalid: bad_name, unknown_model.
    """
    tenant, name = key_of(text)
    state = ports.store.model(tenant, name)
    if state is None:
        raise unknown_model(ports, text)
    return state


def unknown_model(ports: Ports, text: str) -> Exception:
    """That there is no such model, with some that there are."""
    from millstream_server.core.errors import Invalid
    from millstream_server.core.routing import near_misses

    known = sorted(state.key for state in ports.store.models())
    near = near_misses(text, known) or [key for key in known if key.endswith(f".{text}")][:3]
    if near:
        return Invalid(
            "unknown_model", f"there is no model {text}; near misses: {', '.join(near)}", mend=f"millstream models show {near[0]}"
        )
    return Invalid("unknown_model", f"there is no model {text}; there are {', '.join(known[:10]) or 'none'}")


def versions_of(ports: Ports, state: ModelState) -> list[ModelVersion]:
    """Every version that there ever was, oldest first."""
    return [version for _, version in ports.store.model_versions(tenant=state.tenant, model=state.model)]


def find_version(ports: Ports, state: ModelState, number: int) -> ModelVersion:
    """A version of a model, out of the lineage.

    Raises:
        Invalid: unknown_version, with those that there are.
    """
    from millstream_server.core.errors import Invalid

    versions = versions_of(ports, state)
    found = next((version for version in versions if version.version == number), None)
    if found is None:
        known = ", ".join(str(version.version) for version in versions if not version.is_deleted) or "none"
        raise Invalid("unknown_version", f"{state.key} has no version {number}; it has {known}", mend=f"millstream models show {state.key}")
    return found


def was_imported(run: Run | None) -> bool:
    """Whether the run of a version stands for an import: nobody trained it here."""
    from millstream_server.cli.import_model import IMPORTED

    return run is not None and bool(run.attempts) and run.attempts[0].node == IMPORTED


def check_usable(ports: Ports, state: ModelState, version: ModelVersion) -> None:
    """See that a version can be loaded, as nodes will: it is signed, and every file is as it was signed.

    Raises:
        Invalid: version_deleted.
        Failed: model_damaged.
    """
    from millstream_server.core.models_by_hand import refuse_deleted
    from millstream_server.node.models import verify

    refuse_deleted(state, version)
    verify(ports.artifacts, ports.signer, state.key, version)


def release_taken_up(ports: Ports, version: ModelVersion) -> PackageState | None:
    """The package's state with the release that trained a version KEPT again; see `environments.releases`."""
    from millstream_server.environments import releases

    return releases.release_taken_up(ports.store, ports.index, version, now_ms())


def asker() -> str:
    """USER@HOST, as states and lineage record who changed something."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def lost_races(key: str) -> Exception:
    """That others changed the model each time that we tried."""
    from millstream_server.core.errors import Unavailable

    return Unavailable("store_unavailable", f"others change {key} all the time; {TRIES} tries lost", mend="try again")
