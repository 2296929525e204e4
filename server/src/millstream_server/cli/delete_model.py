"""`models delete`: tell exactly what goes, ask, write it to the store, and only then remove the files.

A crash in between leaves files that nothing names any more; the same command removes them when it is repeated.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from millstream_server.cli.frame import Command, Invocation, common, pass_invocation

if TYPE_CHECKING:
    from millstream_server.app import Ports
    from millstream_server.core.model import ModelState, ModelVersion

PATIENCE_S = 3.0
"""How long a node may say that it answers with a version whose successor it has loaded: its word on itself is up to a second old."""

SILENCE_S = 10.0
"""How long nodes may take to stop answering with a deleted model before the command ends without them; mostly it is a second."""

Sizes = dict[int, tuple[int, int]]
"""By version how many files it has on the disk, and their bytes."""


@click.command(
    cls=Command,
    examples=[
        ("millstream models delete acme.anomaly --version 3", "asks before it does"),
        ("millstream models delete acme.anomaly --yes", "the model with all its versions"),
    ],
)
@click.argument("model", metavar="TENANT.MODEL")
@click.option("--version", "number", type=click.IntRange(1), metavar="N", help="This version only; else the model with all its versions.")
@click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
@common
@pass_invocation
def delete(invocation: Invocation, model: str, number: int | None, yes: bool) -> int:
    """Delete one version of a model, or the model with all its versions, and remove their files.

    Refused for what is in use: the champion, the previous version and pinned ones; a whole model only where a version is pinned. Numbers
    are not given again, and `models show` tells who deleted what. Without its model a tenant gets no-model, until it trains again.
    """
    from millstream_server.cli.versions import find_model

    with invocation.ports() as ports:
        state = find_model(ports, model)
        versions = _concerned(ports, state, number)
        _change(ports, state, versions, number)  # refuses before anything is asked
        sizes = {version.version: ports.artifacts.measure(version.location) for version in versions}
        going = [version for version in versions if not version.is_deleted or sizes[version.version] != (0, 0)]
        if not going and not (number is None and state.champion):
            click.echo(f"{_named(state, number)} is deleted already, and nothing is left of its files", err=True)
            return 0
        _tell(ports, state, going, sizes, number)
        if not _agreed(yes):
            click.echo("nothing is deleted", err=True)
            return 0
        _write(ports, model, {version.version for version in going if not version.is_deleted}, number)
        if number is None:
            _await_silence(ports, state)
        freed_bytes = sum(ports.artifacts.remove(version.location) for version in going)
    click.echo(f"{_named(state, number)} is deleted: {freed_bytes} bytes given back", err=True)
    return 0


def _concerned(ports: Ports, state: ModelState, number: int | None) -> list[ModelVersion]:
    from millstream_server.cli.versions import find_version, versions_of

    return versions_of(ports, state) if number is None else [find_version(ports, state, number)]


def _change(
    ports: Ports, state: ModelState, versions: Sequence[ModelVersion], number: int | None
) -> tuple[ModelState, tuple[ModelVersion, ...]]:
    """The state after it, and the versions as they stand in the lineage then.

    Raises:
        Invalid: version_in_use, by its state or by a node that has not switched yet.
    """
    from millstream_server.cli.versions import asker, now_ms
    from millstream_server.core.models_by_hand import delete_model, delete_version

    if number is None:
        return delete_model(state, versions, asker(), now_ms())
    after, deleted = delete_version(state, versions[0], asker(), now_ms())
    _refuse_answering(ports, state, number)
    return after, deleted


def _refuse_answering(ports: Ports, state: ModelState, number: int) -> None:
    """See that no node answers with a version that is champion no more, because its successor is not loaded there yet."""
    from millstream_server.cli.serving import serving_nodes
    from millstream_server.core.errors import Invalid

    until_s = time.monotonic() + PATIENCE_S
    while True:
        nodes = [n.node for n in serving_nodes(ports.store) if any(m.model == state.key and m.serving == number for m in n.models)]
        if not nodes:
            return
        if time.monotonic() > until_s:
            raise Invalid(
                "version_in_use",
                f"{state.key} v{number} answers on {nodes[0]} until v{state.champion} is loaded there",
                mend=f"see why: millstream models promote {state.key} {state.champion}",
            )
        time.sleep(0.1)  # between two looks at what nodes report, for a bounded time


def _await_silence(ports: Ports, state: ModelState) -> None:
    """Wait until no node answers with a deleted model any more, and name one that takes too long: it will when it hears of it."""
    from millstream_server.cli.serving import serving_nodes

    until_s = time.monotonic() + SILENCE_S
    while nodes := [n.node for n in serving_nodes(ports.store) if any(m.model == state.key and m.serving for m in n.models)]:
        if time.monotonic() > until_s:
            click.echo(f"{', '.join(nodes)} answers with it still, and will not once it has heard of this: see millstream status", err=True)
            return
        time.sleep(0.1)  # between two looks at what nodes report, for a bounded time


def _tell(ports: Ports, state: ModelState, going: Sequence[ModelVersion], sizes: Sizes, number: int | None) -> None:
    """Say what goes, version by version."""
    from millstream_server.cli.printing import moment
    from millstream_server.cli.versions import was_imported

    for version in going:
        files, size_bytes = sizes[version.version]
        left = "left over of " if version.is_deleted else ""
        made, by = ("imported", ", answers with") if was_imported(ports.store.run(version.run)) else ("trained", " by")
        what = f"{left}v{version.version}, {made} {moment(version.created_ms)}{by} {version.package}=={version.release}"
        click.echo(f"  {what}: {_files(files)}, {size_bytes} bytes in {version.location}", err=True)
    files, size_bytes = (sum(sizes[version.version][each] for version in going) for each in (0, 1))
    versions = f"{len(going)} version{'s' if len(going) != 1 else ''}"
    then = f"; nobody answers for {state.key} then" if number is None and state.champion else ""
    click.echo(f"this deletes {versions} of {state.key} for good: {_files(files)}, {size_bytes} bytes{then}", err=True)


def _agreed(yes: bool) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        raise click.UsageError("this cannot be undone and nobody can be asked here; add --yes to do it")
    return click.confirm("delete it?", err=True)


def _write(ports: Ports, model: str, told: set[int], number: int | None) -> None:
    """Write what was told and agreed to.

    Raises:
        Invalid: version_in_use, a version came meanwhile that was not told of.
    """
    from millstream_server.cli.versions import TRIES, find_model, lost_races
    from millstream_server.core.errors import Invalid

    for _ in range(TRIES):
        state = find_model(ports, model)
        after, deleted = _change(ports, state, _concerned(ports, state, number), number)
        untold = sorted(version.version for version in deleted if version.version not in told)
        if untold:
            raise Invalid("version_in_use", f"v{untold[0]} of {state.key} came meanwhile; nothing is deleted", mend="ask again")
        if after is state or ports.store.save_model(after, deleted=deleted):
            return
    raise lost_races(model)


def _named(state: ModelState, number: int | None) -> str:
    return state.key if number is None else f"{state.key} v{number}"


def _files(count: int) -> str:
    return f"{count} file{'s' if count != 1 else ''}"
