"""`deploy`: write the wish into the store, then follow what nodes say until the release is current or given up."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from millstream_server.cli.frame import Command, Invocation, common, pass_invocation

if TYPE_CHECKING:
    from millstream_server.app import Ports
    from millstream_server.cli.printing import LivePhases
    from millstream_server.core.release import PackageState, Release
    from millstream_server.core.status import ReleaseStatusRow
    from millstream_server.core.store import Store

POLL_S = 0.1
INTERRUPTED = 130
TRIES = 50
"""Changes by others that one change of ours may lose to before we say so; each lost race is another's success."""


class Target(msgspec.Struct, frozen=True):
    """NAME==VERSION as given; the version is empty where only the name was."""

    package: str
    version: str

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read NAME or NAME==VERSION; the name as indexes spell it (lower case, dashes)."""
        from packaging.utils import canonicalize_name

        name, _, version = text.partition("==")
        return cls(str(canonicalize_name(name.strip())), version.strip())


@click.command(
    cls=Command,
    examples=[
        ("millstream deploy anomaly==2.0.0", "and follow it until it is current"),
        ("millstream deploy anomaly==2.0.0 --no-wait", "see: millstream releases show anomaly"),
        ("millstream deploy --cancel anomaly", "what is current stays current"),
    ],
)
@click.argument("release", metavar="NAME==VERSION")
@click.option("--no-wait", is_flag=True, help="Only ask for it; nodes do it whether anybody watches or not.")
@click.option("--cancel", is_flag=True, help="Give up the deployment of the package NAME that is under way.")
@common
@pass_invocation
def deploy(invocation: Invocation, release: str, no_wait: bool, cancel: bool) -> int:
    """Make a published version the current release, and follow it until it is.

    Every node builds the release's environment, checks it and starts workers, while the release before it goes on answering; when
    all are READY the new one is current. Where one cannot, the old one stays, and the reason is told. Warns where tenants have models
    that the new release asks for by another name, or trains no more. Ctrl-C stops the watching, not the deployment.
    """
    target = Target.parse(release)
    if cancel:
        with invocation.ports() as ports:
            return _cancel(ports.store, target)
    if not target.version:
        raise click.UsageError(f"name the version too, as in {target.package}==1.0.0; see: millstream releases list")
    with invocation.ports() as ports:
        wanted = begin(ports, target)
        _warn(ports.store, wanted)
        if wanted is None:
            click.echo(f"{target.package}=={target.version} is current already", err=True)
            return 0
        return _after_begin(ports, wanted, no_wait)


def _after_begin(ports: Ports, wanted: Release, no_wait: bool) -> int:
    from millstream_server import app

    nobody = app.holder(ports.settings) is None
    if nobody:
        click.echo(f"no node works on {ports.data_dir}: {wanted.label} is deployed by the next `millstream up`", err=True)
    if no_wait:
        if not nobody:
            click.echo(f"{wanted.label} is being deployed; see: millstream releases show {wanted.manifest.package}", err=True)
        return 0
    try:
        return follow(ports.store, wanted)
    except KeyboardInterrupt:
        package = wanted.manifest.package
        click.echo(
            f"\nthe deployment of {wanted.label} goes on without this command\n"
            f"  to follow it:  millstream deploy {wanted.label}\n  to give it up: millstream deploy --cancel {package}",
            err=True,
        )
        return INTERRUPTED


def begin(ports: Ports, target: Target) -> Release | None:
    """Write the release as DEPLOYING, or find it under way; None when it is current already."""
    from millstream_server.core.release import PackageState, begin_deploy, check_pipeline_names
    from millstream_server.environments.releases import read_release

    release = read_release(ports.index, target.package, target.version)
    release = msgspec.structs.replace(release, deployed_ms=time.time_ns() // 1_000_000)
    for _ in range(TRIES):
        packages = ports.store.packages()
        state = next((p for p in packages if p.package == release.manifest.package), PackageState(release.manifest.package))
        same = state.by_build(release.build_id)
        if same is not None and same.status == "CURRENT":
            return None
        if same is not None and same.status == "DEPLOYING":
            return same
        check_pipeline_names(release, packages)
        if ports.store.save_package(begin_deploy(state, release)):
            return release
    raise _lost_races(release.manifest.package)


def _warn(store: Store, wanted: Release | None) -> None:
    """Tell what the deployment takes from tenants who have models now."""
    from millstream_server.cli.printing import caution
    from millstream_server.core.model_names import left_behind

    state = store.package(wanted.manifest.package) if wanted is not None else None
    if wanted is None or state is None or state.current is None or state.current.build_id == wanted.build_id:
        return
    for each in left_behind(state.current, wanted, store.models()):
        caution(each.message, each.mend)


def _cancel(store: Store, target: Target) -> int:
    from millstream_server.core.errors import Invalid
    from millstream_server.core.release import fail_deploy

    for _ in range(TRIES):
        state = store.package(target.package)
        under_way = state.deploying if state is not None else None
        if state is None or under_way is None or (target.version and under_way.version != target.version):
            mend = f"millstream releases show {target.package}"
            raise Invalid("unknown_release", f"no deployment of {target.package} is under way", mend=mend)
        if store.save_package(fail_deploy(state, "cancelled by hand")):
            current = state.current.label if state.current is not None else "no release"
            click.echo(f"the deployment of {under_way.label} is given up; current is {current}", err=True)
            return 0
    raise _lost_races(target.package)


def _lost_races(package: str) -> Exception:
    from millstream_server.core.errors import Unavailable

    return Unavailable("store_unavailable", f"others change {package} all the time; {TRIES} tries lost", mend="try again")


# --- following ------------------------------------------------------------------------------------------------------------


def follow(store: Store, wanted: Release) -> int:
    """Show phases until the release is current.

    Raises:
        Failed: deploy_failed, it was given up, with the reason.
    """
    from millstream_server.cli.printing import LivePhases

    live = LivePhases()
    watch = Watch(live, wanted)
    while True:
        state = store.package(wanted.manifest.package)
        done = watch.look(state, [row for _, row in rows_of(store, wanted)])
        if done:
            return 0
        live.tick()
        time.sleep(POLL_S)


def rows_of(store: Store, wanted: Release) -> list[tuple[str, ReleaseStatusRow]]:
    """What living nodes say of this deployment, by node."""
    from millstream_server.core.status import decode_status

    fresh_ms = time.time_ns() // 1_000_000 - 10_000
    found = []
    for node in store.nodes():
        if node.updated_ms > fresh_ms:
            rows = [row for row in decode_status(node.status).releases if row.build_id == wanted.build_id]
            found += [(node.node, row) for row in rows if row.deployed_ms == wanted.deployed_ms]
    return found


class Watch:
    """Turns what store and nodes say into live lines, each thing once."""

    def __init__(self, live: LivePhases, wanted: Release, clock: Callable[[], float] = time.monotonic) -> None:
        self.began_s = clock()
        self._live = live
        self._wanted = wanted
        self._clock = clock
        self._ready = False

    def look(self, state: PackageState | None, rows: list[ReleaseStatusRow]) -> bool:
        """Show what changed; true when the release is current."""
        self._show(rows)
        release = state.by_build(self._wanted.build_id) if state is not None else None
        status = release.status if release is not None else "gone"
        if status == "DEPLOYING":
            return False
        if status == "CURRENT":
            self._show_ready(rows)
            took = self._clock() - self.began_s
            click.echo(f"{self._wanted.label} is CURRENT after {took:.1f} s (build {self._wanted.build_id})", err=True)
            return True
        self._live.drop()
        raise self._failure(status, release.reason if release is not None else "")

    def _show(self, rows: list[ReleaseStatusRow]) -> None:
        unready = [row for row in rows if row.environment not in ("READY", "ASLEEP")]
        if unready:
            self._live.begin(unready[0].phase or "wait", self._wanted.label if len(unready) == 1 else f"on {len(unready)} nodes")
        elif rows:
            self._show_ready(rows)
        else:
            self._live.begin("wait", "for a node to take it up")

    def _show_ready(self, rows: list[ReleaseStatusRow]) -> None:
        if self._ready:
            return
        self._ready = True
        self._live.end()
        seconds = _installed_in(rows)
        click.echo(f"  READY      {self._clock() - self.began_s:6.1f} s  {seconds}".rstrip(), err=True)

    def _failure(self, status: str, reason: str) -> Exception:
        from millstream_server.core.errors import Failed

        label = self._wanted.label
        if status == "FAILED":
            code = "deploy_timeout" if reason.startswith("it was not ready within") else "deploy_failed"
            mend = f"millstream logs --release {label}; then deploy again"
            return Failed(code, f"{label} was given up: {reason}", where=label, mend=mend)
        mend = f"millstream releases show {label}"
        return Failed("deploy_failed", f"{label} is {status}: another deployment took its place", mend=mend)


def _installed_in(rows: list[ReleaseStatusRow]) -> str:
    """The installer's own measurement of its phases, which are often shorter than our look at them."""
    for row in rows:
        try:
            sealed = msgspec.json.decode((Path(row.prefix) / "MANIFEST.json").read_bytes(), type=dict[str, object])
        except (OSError, msgspec.DecodeError):
            continue  # an environment of another machine; only the measurement is missing then
        seconds = sealed.get("seconds")
        if row.prefix and isinstance(seconds, dict):
            return "(" + ", ".join(f"{name} {took:.1f} s" for name, took in seconds.items()) + ")"
    return ""
