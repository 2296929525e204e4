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

    known = ", ".join(sorted(state.key for state in ports.store.models())[:10]) or "none"
    return Invalid("unknown_model", f"there is no model {text}; there are {known}")


def versions_of(ports: Ports, state: ModelState) -> list[ModelVersion]:
    """Every version ever trained, oldest first."""
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
    """The package's state with the release that trained a version KEPT again; None where nodes have that release.

    Raises:
        Invalid: not_published, the wheel is in the index no more, or only as another build; hash_mismatch, bad_package,
            pipeline_name_taken.
    """
    import msgspec

    from millstream_server.core.errors import Invalid
    from millstream_server.core.release import PackageState, check_pipeline_names
    from millstream_server.core.retention import take_up
    from millstream_server.environments.releases import read_release

    packages = ports.store.packages()
    state = next((each for each in packages if each.package == version.package), PackageState(version.package))
    known = state.by_build(version.build_id)
    if known is not None and take_up(state, known) is state:
        return None
    release = read_release(ports.index, version.package, version.release)
    if release.build_id != version.build_id:
        raise Invalid(
            "not_published",
            f"{release.label} is in the index as build {release.build_id}, v{version.version} was trained by build {version.build_id}",
            mend="publish the wheel of that build again, or train the model anew",
        )
    check_pipeline_names(release, packages)
    return take_up(state, msgspec.structs.replace(release, deployed_ms=now_ms()))


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
