"""Releases of a package: the manifest, the state that all nodes share, and the rules of its changes.

The store's row holds a `PackageState` and is the truth; `ml.release` (compacted, key = package) carries the same state.
Every change is a pure function from state to state with the revision one higher; the store writes it by compare-and-set.

Which status may follow which is the table `core.states.RELEASE`; `changed`, through which every new state is made, keeps to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from millstream_server.core.errors import Invalid
from millstream_server.core.gate import Bound
from millstream_server.core.states import RELEASE

ReleaseStatus = Literal["DEPLOYING", "CURRENT", "KEPT", "FAILED", "RETIRED"]
EnvironmentStatus = Literal["INSTALLING", "READY", "ASLEEP", "DRAINING", "GONE", "BROKEN"]
ABLE: tuple[EnvironmentStatus, ...] = ("READY", "ASLEEP")
"""An environment that answers whoever calls it, at once or when it has woken."""
Kind = Literal["training", "inference"]
Shape = Literal["row", "list", "columns"]


_WAS_KEPT = "kept until now"
"""The reason of a DEPLOYING release that was KEPT, and is again if its deployment is given up: the way back stays open."""

GIVEN_UP = "given up: "
"""Before the reason of a deployment that ended so, in that of a release that is KEPT as before."""


class PipelineSpec(msgspec.Struct, frozen=True):
    """One pipeline of a release, as `millstream build` read it from the author's type hints; schemas are JSON Schema objects."""

    name: str
    kind: Kind
    module: str
    function: str
    model: str = ""
    shape: Shape = "row"
    rows_parameter: str = ""
    rows_independent: bool = False
    timeout_s: float | None = None
    parameters: dict[str, object] = {}
    returns: dict[str, object] = {}
    doc: str = ""
    steps: tuple[str, ...] = ()
    gate: tuple[Bound, ...] | msgspec.UnsetType = msgspec.UNSET
    """Of a training: the conditions that its metrics must meet before its model answers."""


class Manifest(msgspec.Struct, frozen=True):
    """`manifest.json` of a wheel: what the release is, without importing its code. `python` is a minor, such as 3.11."""

    format: int
    package: str
    version: str
    build_id: str
    python: str
    requires_python: str
    sdk: str
    wire: str
    modules: tuple[str, ...]
    code_sha256: str
    lock_sha256: str
    pipelines: tuple[PipelineSpec, ...]


class Release(msgspec.Struct, frozen=True):
    """One deployed version: its manifest, its wheel in the index by name and hash, its status, why, and how that is mended."""

    manifest: Manifest
    wheel: str
    wheel_sha256: str
    status: ReleaseStatus
    reason: str = ""
    deployed_ms: int = 0
    mend: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def build_id(self) -> str:
        return self.manifest.build_id

    @property
    def label(self) -> str:
        """package==version, as results and commands spell it."""
        return f"{self.manifest.package}=={self.manifest.version}"


class PackageState(msgspec.Struct, frozen=True):
    """All that nodes know of one package. `releases` in the order in which they were current or first tried, newest last."""

    package: str
    revision: int = 0
    releases: tuple[Release, ...] = ()

    def find(self, version: str) -> Release | None:
        return next((r for r in self.releases if r.version == version), None)

    def by_build(self, build_id: str) -> Release | None:
        return next((r for r in self.releases if r.build_id == build_id), None)

    @property
    def current(self) -> Release | None:
        return next((r for r in self.releases if r.status == "CURRENT"), None)

    @property
    def deploying(self) -> Release | None:
        return next((r for r in self.releases if r.status == "DEPLOYING"), None)


def begin_deploy(state: PackageState, release: Release) -> PackageState:
    """Take up a release as DEPLOYING, in the place of an older deployment of the same version that did not end well.

    Raises:
        Invalid: another deployment of the package is under way, or the version is current already.
    """
    other = state.deploying
    if other is not None and other.build_id != release.build_id:
        raise under_way(other)
    same = state.find(release.version)
    if same is not None and same.build_id != release.build_id and same.status in ("CURRENT", "KEPT"):
        raise Invalid("already_published", f"{same.label} is deployed as build {same.build_id}, this one is {release.build_id}")
    before = state.by_build(release.build_id)
    was_kept = before is not None and (before.status == "KEPT" or before.reason == _WAS_KEPT)
    deploying = msgspec.structs.replace(release, status="DEPLOYING", reason=_WAS_KEPT if was_kept else "", mend=msgspec.UNSET)
    if before is None:
        return changed(state, (*state.releases, deploying))
    return changed(state, tuple(deploying if r.build_id == release.build_id else r for r in state.releases))


def under_way(other: Release) -> Invalid:
    """The error of who wants to deploy while another release of the package is being deployed."""
    mend = f"wait for it: millstream deploy {other.label}; or give it up: millstream deploy --cancel {other.manifest.package}"
    return Invalid("deploy_failed", f"{other.label} is being deployed, and a package has one deployment at a time", mend=mend)


def check_pipeline_names(release: Release, packages: Iterable[PackageState]) -> None:
    """See that no other package has a pipeline of the same name in a release that still answers: a request names the pipeline alone.

    Raises:
        Invalid: pipeline_name_taken, naming the pipelines and who has them.
    """
    ours = {pipeline.name for pipeline in release.manifest.pipelines}
    for state in packages:
        if state.package == release.manifest.package:
            continue
        for other in state.releases:
            taken = sorted(ours & {pipeline.name for pipeline in other.manifest.pipelines})
            if taken and other.status in ("DEPLOYING", "CURRENT", "KEPT"):
                raise Invalid(
                    "pipeline_name_taken",
                    f"{release.label} has {', '.join(taken)}, which {other.label} has already ({other.status})",
                    mend=f"rename {taken[0]} in one of the two packages",
                )


def before_in_line(release: Release, packages: Iterable[PackageState]) -> list[PackageState]:
    """The packages that keep their pipelines' names where a release, just written as DEPLOYING, has some of the same.

    Two packages are two rows, so two commands may each find the names free and then both write. Of deployments that met like this the
    one with the earlier time stays, by name where those are equal: each command judges by the same rows, and one of them wins.
    """

    def is_behind(state: PackageState) -> bool:
        other = state.deploying
        return other is not None and (other.deployed_ms, state.package) > (release.deployed_ms, release.manifest.package)

    return [state for state in packages if not is_behind(state)]


def promote(state: PackageState) -> PackageState:
    """Make the deploying release current; the one before it is kept, because it is the previous one."""
    current, others = [], []
    for release in state.releases:
        if release.status == "DEPLOYING":
            current.append(msgspec.structs.replace(release, status="CURRENT", reason="", mend=msgspec.UNSET))
        elif release.status == "CURRENT":
            others.append(msgspec.structs.replace(release, status="KEPT", reason="previous"))
        else:
            others.append(release)
    return changed(state, (*others, *current))


def fail_deploy(state: PackageState, reason: str, mend: str = "") -> PackageState:
    """Give up the deployment with its reason; what was current stays current, and what was kept is kept again."""
    return changed(state, tuple(_given_up(each, reason, mend) if each.status == "DEPLOYING" else each for each in state.releases))


def _given_up(release: Release, reason: str, mend: str) -> Release:
    if release.reason == _WAS_KEPT:  # core.retention writes anew why it is kept
        return msgspec.structs.replace(release, status="KEPT", reason=f"previous, {GIVEN_UP}{reason}", mend=mend or msgspec.UNSET)
    return msgspec.structs.replace(release, status="FAILED", reason=reason, mend=mend or msgspec.UNSET)


def changed(state: PackageState, releases: tuple[Release, ...]) -> PackageState:
    """The next state of a package; each release, also one that is new or left out, goes only where its table lets it go.

    Raises:
        ValueError: a change that there is not, or two releases that are CURRENT or DEPLOYING.
    """
    before = {release.build_id: release.status for release in state.releases}
    after = {release.build_id: release.status for release in releases}
    for build_id in before | after:
        RELEASE.check(before.get(build_id, RELEASE.start), after.get(build_id, RELEASE.start), f"{state.package} {build_id}")
    for alone in ("CURRENT", "DEPLOYING"):
        if sum(release.status == alone for release in releases) > 1:
            raise ValueError(f"{state.package} has more than one release that is {alone}")
    return PackageState(state.package, state.revision + 1, releases)


encode_package = msgspec.json.Encoder().encode
decode_package = msgspec.json.Decoder(PackageState).decode
decode_manifest = msgspec.json.Decoder(Manifest).decode
