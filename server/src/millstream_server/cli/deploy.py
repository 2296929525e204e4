"""`deploy`: write the wish into the store where no caller loses by it, then follow what nodes say (`cli.following`)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click
import msgspec

from millstream_server.cli.frame import Command, Invocation, common, pass_invocation

if TYPE_CHECKING:
    from millstream_server.app import Ports
    from millstream_server.core.release import PackageState, Release
    from millstream_server.core.store import Store

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
        ("millstream deploy anomaly==2.0.0 --allow-breaking", "although callers of the current one lose something"),
        ("millstream deploy --rollback anomaly", "back to the release that was current before"),
        ("millstream deploy --cancel anomaly", "what is current stays current"),
    ],
)
@click.argument("release", metavar="NAME==VERSION")
@click.option("--no-wait", is_flag=True, help="Only ask for it; nodes do it whether anybody watches or not.")
@click.option("--allow-breaking", is_flag=True, help="Deploy it although it breaks callers of the current release, and say what breaks.")
@click.option("--rollback", is_flag=True, help="Deploy the release of the package NAME that was current before; breaks are only told.")
@click.option("--cancel", is_flag=True, help="Give up the deployment of the package NAME that is under way.")
@common
@pass_invocation
def deploy(invocation: Invocation, release: str, no_wait: bool, allow_breaking: bool, rollback: bool, cancel: bool) -> int:
    """Make a published version the current release, and follow it until it is.

    Every node builds the release's environment, checks it and starts workers, while the release before it goes on answering; when
    all are READY the new one is current. Where one cannot, the old one stays, and the reason is told. Any version that is published
    can be deployed, also an older one. A release is refused that takes something from callers of the current one: a pipeline, a
    parameter, values that it took, the type of an answer. Warns where tenants have models that the new release asks for by
    another name, or trains no more. Ctrl-C stops the watching, not the deployment.
    """
    from millstream_server.core.published import version_missing

    target = Target.parse(release)
    if rollback and cancel:
        raise click.UsageError("--rollback deploys and --cancel gives a deployment up: first the one, then the other")
    if cancel:
        with invocation.ports() as ports:
            return _cancel(ports.store, target)
    if rollback and target.version:
        raise click.UsageError(f"--rollback finds the version: millstream deploy --rollback {target.package}")
    if not rollback and not target.version:
        with invocation.ports() as ports:
            raise version_missing(target.package, ports.index.entries())
    with invocation.ports() as ports:
        wanted = _begin_rollback(ports.store, target.package) if rollback else begin(ports, target, allow_breaking)
        if wanted is None:
            click.echo(f"{target.package}=={target.version} is current already", err=True)
            return 0
        return _after_begin(ports, wanted, no_wait)


def follow_deployment(ports: Ports, wanted: Release) -> int:
    """Wait until nodes have taken a release up, where any is there; the exit code."""
    from millstream_server import app
    from millstream_server.cli.serving import serving_nodes

    nobody = not serving_nodes(ports.store) or (not ports.settings.shared.store and app.holder(ports.settings) is None)
    return _after_begin(ports, wanted, no_wait=nobody)


def _after_begin(ports: Ports, wanted: Release, no_wait: bool) -> int:
    from millstream_server import app

    nobody = app.holder(ports.settings) is None
    if nobody:
        click.echo(f"no node works on {ports.data_dir}: {wanted.label} is deployed by the next `millstream up`", err=True)
    if no_wait:
        if not nobody:
            click.echo(f"{wanted.label} is being deployed; see: millstream releases show {wanted.manifest.package}", err=True)
        return 0
    from millstream_server.cli.following import follow

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


def begin(ports: Ports, target: Target, allow_breaking: bool) -> Release | None:
    """Write the release as DEPLOYING, or find it under way; None when it is current already.

    Raises:
        Invalid: breaks_callers, unless that is allowed; what is allowed is told. not_published, with what is.
    """
    from millstream_server.core.compatibility import check_compatible
    from millstream_server.core.errors import Invalid
    from millstream_server.core.published import not_published
    from millstream_server.core.release import PackageState, begin_deploy, check_pipeline_names
    from millstream_server.environments.releases import read_release

    try:
        release = read_release(ports.index, target.package, target.version)
    except Invalid as error:
        if error.code != "not_published":
            raise
        # A large index lists nothing unless a package is named.
        raise not_published(target.package, target.version, ports.index.entries() or ports.index.entries(target.package)) from None
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
        deploying = begin_deploy(state, release)
        if not allow_breaking:
            check_compatible(state, release)
        if ports.store.save_package(deploying):
            _check_names_again(ports.store, release)
            _warn(ports.store, state, release, f"the way back: millstream deploy --rollback {state.package}")
            return release
    raise _lost_races(release.manifest.package)


def _check_names_again(store: Store, release: Release) -> None:
    """Another package with a pipeline of the same name may have been written in the same moment: one of the two is given up.

    Raises:
        Invalid: pipeline_name_taken, it is ours.
    """
    from millstream_server.core.errors import Invalid
    from millstream_server.core.release import before_in_line, check_pipeline_names, fail_deploy

    try:
        check_pipeline_names(release, before_in_line(release, store.packages()))
    except Invalid as taken:
        for _ in range(TRIES):
            state = store.package(release.manifest.package)
            if state is None or state.deploying is None or state.deploying.build_id != release.build_id:
                break  # somebody else has ended it
            if store.save_package(fail_deploy(state, taken.message, taken.mend)):
                break
        raise


def _begin_rollback(store: Store, package: str) -> Release:
    """Write the release that was current before as DEPLOYING, and say so. Its wheel is not read: nodes have its environment.

    Raises:
        Invalid: unknown_release where none is kept, deploy_failed where a deployment is under way.
    """
    from millstream_server.core.compatibility import previous_release
    from millstream_server.core.errors import Invalid
    from millstream_server.core.release import PackageState, begin_deploy, under_way

    for _ in range(TRIES):
        state = store.package(package) or PackageState(package)
        current, before = state.current, previous_release(state)
        if state.deploying is not None:
            raise under_way(state.deploying)
        if current is None or before is None:
            here = f"no release of {package} is kept beside {current.label}" if current is not None else f"{package} has no current release"
            mend = f"deploy a version by its name, see: millstream releases list; then: millstream deploy {package}==VERSION"
            raise Invalid("unknown_release", f"there is nothing to go back to: {here}", mend=mend)
        release = msgspec.structs.replace(before, status="DEPLOYING", reason="", deployed_ms=time.time_ns() // 1_000_000)
        if store.save_package(begin_deploy(state, release)):
            click.echo(f"back from {current.version} to {before.version}; models stay with the releases that trained them", err=True)
            _warn(store, state, release, f"the way forward again: millstream deploy {current.label} --allow-breaking")
            return release
    raise _lost_races(package)


def _warn(store: Store, before: PackageState, wanted: Release, mend: str) -> None:
    """Tell what the deployment takes from callers, and from tenants who have models now."""
    from millstream_server.cli.printing import caution
    from millstream_server.core.compatibility import breaks_of_deploying, lines
    from millstream_server.core.logbook import plain
    from millstream_server.core.model_names import left_behind
    from millstream_server.environments.mlflow_models.package import is_of_imports

    if before.current is None:
        return
    found = breaks_of_deploying(before, wanted)
    if found:
        click.echo(f"warning: {wanted.label} breaks callers of {before.current.label}:", err=True)
        for line in [*lines(found), f"  mend: {mend}"]:
            click.echo(plain(line), err=True)
    imported = is_of_imports(wanted.manifest)  # its models come from elsewhere; no training was ever meant to make them
    for each in () if imported else left_behind(before.current, wanted, store.models()):
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
