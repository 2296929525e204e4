"""`releases`: what is published and deployed, and everything about one release."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import click
import msgspec

from millstream_server.cli.frame import Group, Invocation, as_json, common, pass_invocation

if TYPE_CHECKING:
    from millstream_server.app import Ports
    from millstream_server.core.compatibility import Break
    from millstream_server.core.index import IndexEntry
    from millstream_server.core.release import PackageState, PipelineSpec, Release
    from millstream_server.core.status import ReleaseStatusRow


@click.group(cls=Group, examples=[("millstream releases list", ""), ("millstream releases show anomaly", "")])
@common
def releases() -> None:
    """List releases and show one of them."""


@releases.command("list", examples=[("millstream releases list", ""), ("millstream releases list --json", "")])
@as_json
@common
@pass_invocation
def list_(invocation: Invocation, as_json: bool) -> None:
    """List every version that is published or deployed, and what it is.

    PUBLISHED: on the index, not deployed. DEPLOYING. CURRENT: it trains, and answers. KEPT: it was current; models that it trained are
    answered by it until they are trained again, and it can be deployed again at once. RETIRED: nothing needs it any more, nodes have
    removed its environment; deploy it again to have it back. FAILED: it was given up.
    """
    from millstream_server.cli.printing import SENTENCES, Column, brief_moment, caution, count, moment, print_json, print_table
    from millstream_server.core.errors import Unavailable
    from millstream_server.core.published import by_authors

    with invocation.ports() as ports:
        deployed = [release for state in ports.store.packages() for release in state.releases]
        known = {(release.manifest.package, release.version) for release in deployed}
        published: list[IndexEntry] = []
        try:
            published = [e for e in by_authors(ports.index.entries()) if (e.package, e.version) not in known]
        except Unavailable as error:  # what is deployed is known without the index
            caution(f"what is only published is not listed: {error.message}", error.mend)
        served = _served(ports)
    if as_json:
        rows = [_summary(release) for release in deployed]
        rows += [
            {"package": e.package, "version": e.version, "status": "PUBLISHED", "wheel": e.filename, "wheel_sha256": e.sha256}
            for e in published
        ]
        print_json(rows)
        return
    table: list[tuple[str, ...]] = [
        (r.label, r.status, r.build_id, moment(r.deployed_ms), _pipelines(r), _why(r, served)) for r in deployed
    ]
    table += [(f"{e.package}=={e.version}", "PUBLISHED", "-", "-", "-", "") for e in published]
    nothing = "no release yet; make one: millstream build && millstream publish && millstream deploy NAME==VERSION"
    columns = (
        *("RELEASE", "STATUS", "BUILD"),
        Column("DEPLOYED", brief_moment),
        Column("PIPELINES", count),
        Column("WHY", wraps=SENTENCES),
    )
    print_table(columns, sorted(table), nothing=nothing)


@releases.command(
    examples=[
        ("millstream releases show anomaly", "the current release, or the one being deployed"),
        ("millstream releases show anomaly==1.0.0 --json", "with the JSON Schemas of its pipelines"),
    ]
)
@click.argument("release", metavar="NAME[==VERSION]")
@as_json
@common
@pass_invocation
def show(invocation: Invocation, release: str, as_json: bool) -> None:
    """Show one release: its build, its pipelines and their parameters, its environment on every node, the models it answers for.

    Of one that is not current: what callers of the current one would lose if it were deployed.
    """
    from millstream_server.cli.deploy import Target
    from millstream_server.cli.imported_releases import columns_of
    from millstream_server.cli.printing import print_json
    from millstream_server.core.compatibility import breaks_of_deploying

    target = Target.parse(release)
    with invocation.ports() as ports:
        state = ports.store.package(target.package)
        found = _find(ports, state, target.package, target.version)
        environments = _environments(ports, found)
        served = sorted(_served(ports).get(found.build_id, ()))
        columns = [] if as_json else columns_of(ports.index, found)
    losses = breaks_of_deploying(state, found) if state is not None else []
    if as_json:
        on_nodes = [{"node": each.node, "gone": each.gone, **msgspec.to_builtins(each.row)} for each in environments]
        print_json({**_summary(found), "manifest": found.manifest, "environments": on_nodes, "models": served, "breaks": losses})
        return
    _print(found, environments, served, _if_deployed(state, found, losses), columns)


def _find(ports: Ports, state: PackageState | None, package: str, version: str) -> Release:
    """The release that is meant: deployed, or only published.

    Raises:
        Invalid: unknown_release, naming those that are.
    """
    from millstream_server.core.errors import Invalid
    from millstream_server.core.published import by_authors
    from millstream_server.environments.releases import read_release

    deployed = state.releases if state is not None else ()
    if version:
        found = state.find(version) if state is not None else None
    else:
        found = (state.deploying or state.current or (deployed[-1] if deployed else None)) if state is not None else None
    if found is not None:
        return found
    published = [entry.version for entry in ports.index.entries(package)]
    wanted = version or (published[-1] if published else "")
    if wanted in published:
        return read_release(ports.index, package, wanted)
    known = sorted({f"{package}=={v}" for v in published} | {r.label for r in deployed})
    here = ", ".join(known) or ", ".join(sorted({e.package for e in by_authors(ports.index.entries())})) or "nothing"
    raise Invalid("unknown_release", f"there is no release {package}{'==' + version if version else ''}; here is {here}")


def _served(ports: Ports) -> dict[str, list[str]]:
    """By build the models that it answers for, as tenant.model/version."""
    found: dict[str, list[str]] = {}
    for model in ports.store.models():
        champion = model.find(model.champion)
        if champion is not None:
            found.setdefault(champion.build_id, []).append(f"{model.key}/{champion.version}")
    return found


def _why(release: Release, served: dict[str, list[str]]) -> str:
    """Why a release is what it is; of a kept one whether models need it."""
    from millstream_server.core.retention import MODELS

    if release.status != "KEPT":
        return release.reason
    count = len(served.get(release.build_id, ()))
    if count:
        answers = f"it answers for {count} model{'s' * (count != 1)}"
    else:
        answers = "models can go back to it" if MODELS in release.reason else "no model needs it"
    others = [reason for reason in release.reason.split(", ") if reason not in ("", MODELS)]
    return ", ".join([*others, answers])


class _OnNode(NamedTuple):
    """A release's environment as one node reported it; `gone`: that node lives no more."""

    node: str
    gone: bool
    row: ReleaseStatusRow


def _environments(ports: Ports, release: Release) -> list[_OnNode]:
    from millstream_server.cli.health import living
    from millstream_server.core.status import decode_status

    rows = ports.store.nodes()
    alive = living(ports, rows, time.time_ns() // 1_000_000)
    nodes = [decode_status(row.status) for row in rows]
    return [_OnNode(node.node, node.node not in alive, row) for node in nodes for row in node.releases if row.build_id == release.build_id]


def _if_deployed(state: PackageState | None, release: Release, losses: list[Break]) -> str:
    """What callers would lose if it were deployed; empty of the current one, and where none is."""
    from millstream_server.core.compatibility import lines

    current = state.current if state is not None else None
    if current is None or current.build_id == release.build_id:
        return ""
    if not losses:
        return f"nothing, if it were deployed: callers of {current.label} go on as they are"
    return "\n".join([f"callers of {current.label}, if it were deployed:", *(line.removeprefix("  ") for line in lines(losses))])


def _print(release: Release, environments: list[_OnNode], served: list[str], if_deployed: str, columns: list[str]) -> None:
    from millstream_server.cli.printing import facts, moment
    from millstream_server.core.logbook import plain

    manifest = release.manifest
    pairs = [
        ("release", release.label),
        ("status", _status(release) + (f": {why}" if (why := _why(release, {release.build_id: served})) else "")),
        *([("mend", release.mend)] if release.mend else []),
        ("build", release.build_id),
        ("deployed", moment(release.deployed_ms)),
        ("python", f"{manifest.python} (requires {manifest.requires_python or 'any'})"),
        ("sdk", f"{manifest.sdk}, wire {manifest.wire}"),
        ("wheel", f"{release.wheel} sha256 {release.wheel_sha256[:16]}"),
        ("models", ", ".join(served) or "none"),
        *([("breaks", if_deployed)] if if_deployed else []),
    ]
    for node, gone, row in environments:
        why = f": {row.reason}" if row.reason else f" ({row.phase})" if row.phase else ""
        pairs.append((f"on {node}", f"{row.environment}{' when the node was last heard' if gone else ''}  {row.prefix}{why}"))
    for line in facts(pairs):
        click.echo(line)
    for pipeline in manifest.pipelines:
        click.echo("")
        for line in _describe(pipeline, columns):
            click.echo(plain(line))


def _describe(pipeline: PipelineSpec, columns: list[str]) -> list[str]:
    from millstream_server.cli.imported_releases import in_order
    from millstream_server.cli.schemas import takes

    head = f"{pipeline.name}  {pipeline.kind}" + (f"  model {pipeline.model}" if pipeline.model else "")
    if pipeline.kind == "inference":
        head += f"  by {pipeline.shape}" + (", rows independent" if pipeline.rows_independent else "")
    doc = pipeline.doc.splitlines()[:1]
    return [head, *(f"  {line}" for line in (*doc, *takes(in_order(pipeline.parameters, columns)), *_answer(pipeline)))]


def _answer(pipeline: PipelineSpec) -> list[str]:
    """What it answers with; a training answers with its run, version and metrics, as all of them do."""
    from millstream_server.cli.imported_releases import answers
    from millstream_server.cli.schemas import gives

    if pipeline.kind != "inference":
        return []
    said = answers(pipeline)
    return [f"-> {said}, by the model's signature"] if said else gives(pipeline.returns)


def _summary(release: Release) -> dict[str, object]:
    return {
        "package": release.manifest.package,
        "version": release.version,
        "status": _status(release),
        "reason": release.reason,
        "mend": release.mend or "",
        "build_id": release.build_id,
        "deployed_ms": release.deployed_ms,
        "python": release.manifest.python,
        "wheel": release.wheel,
        "wheel_sha256": release.wheel_sha256,
        "pipelines": [pipeline.name for pipeline in release.manifest.pipelines],
    }


def _status(release: Release) -> str:
    """Its status; one that was read from the index alone was never deployed."""
    return release.status if release.deployed_ms else "PUBLISHED"


def _pipelines(release: Release) -> str:
    return ", ".join(pipeline.name for pipeline in release.manifest.pipelines)
