"""`copy-store`: takes what a data directory knows along to a store, a place of files and an index that nodes share.

Files come first and the store last, in one transaction: until that is done the old data directory is all there is, and the same command
goes on where it was interrupted. Nothing of the old one is changed.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from millstream_server.cli.frame import Command, Invocation, common, pass_invocation

if TYPE_CHECKING:
    from millstream_server.app import Ports
    from millstream_server.config import Settings
    from millstream_server.core.artifacts import Artifacts
    from millstream_server.core.model import ModelVersion


@click.command(
    "copy-store",
    cls=Command,
    examples=[
        ("millstream copy-store --to postgresql://ms@db/millstream --artifacts-to s3://models/prod --index-to /shared/index", "asks first"),
        ("millstream copy-store --to postgresql://ms@db/millstream --artifacts-to s3://models/prod --yes", ""),
    ],
)
@click.option("--to", "store_to", metavar="URL", default="", help="The store to copy to, empty: postgresql://USER:PASSWORD@HOST/DATABASE.")
@click.option("--artifacts-to", metavar="FOLDER|s3://BUCKET/PREFIX", default="", help="Where the models' files go.")
@click.option("--index-to", metavar="FOLDER", default="", help="Where the published releases go.")
@click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
@common
@pass_invocation
def copy_store(invocation: Invocation, store_to: str, artifacts_to: str, index_to: str, yes: bool) -> int:
    """Copy releases, models and runs to a store that nodes can share, with the models' files and the published releases.

    The node of this data directory must be stopped. What is there already is compared and left, so an interrupted copy is finished by the
    same command; a store that holds anything else is refused. The data directory stays as it is.
    """
    from millstream_server import app

    if not (store_to or artifacts_to or index_to):
        raise click.UsageError("nothing to copy to: give --to, --artifacts-to or --index-to")
    source = invocation.settings(follow_node=True)
    there = _moved(source, store_to, artifacts_to, index_to)
    with contextlib.ExitStack() as opened:
        opened.enter_context(app.Hold(source.data_dir))
        ours = opened.enter_context(contextlib.closing(app.open_ports(source)))
        theirs = opened.enter_context(contextlib.closing(app.Ports(there, create=True)))
        versions = _living(ours)
        if artifacts_to:
            click.echo(f"  {len(versions)} model versions, {_bytes(versions)} bytes, to {theirs.artifacts.check()}", err=True)
        if index_to:
            click.echo(f"  {len(ours.index.entries())} published wheels to {index_to}", err=True)
        if store_to:
            _tell_store(ours, theirs)
        if not yes and not _agreed():
            click.echo("nothing is copied", err=True)
            return 0
        if artifacts_to:
            _copy_versions(ours, theirs, versions)
        if index_to:
            done = sum(theirs.index.publish(wheel) for wheel in _wheels(ours))
            click.echo(f"published wheels: {done} copied", err=True)
        if store_to:
            _copy_store(ours, theirs)
    click.echo(f"start with: {_start(source, store_to, artifacts_to, index_to)}", err=True)
    return 0


def _moved(source: Settings, store: str, artifacts: str, index: str) -> Settings:
    """The settings of the copy."""
    import msgspec

    said = {"store": store, "artifacts": artifacts, "index": index}
    shared = msgspec.structs.replace(source.shared, **{name: value for name, value in said.items() if value})
    return msgspec.structs.replace(source, shared=shared)


def _living(ports: Ports) -> list[tuple[str, ModelVersion]]:
    """Every version whose files are kept, of every model."""
    return [(key, version) for key, version in ports.store.model_versions() if not version.is_deleted]


def _bytes(versions: list[tuple[str, ModelVersion]]) -> int:
    return sum(version.size_bytes for _, version in versions)


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here; add --yes to do it")
    return click.confirm("copy it?", err=True)


def _copy_versions(ours: Ports, theirs: Ports, versions: list[tuple[str, ModelVersion]]) -> None:
    """Bring the files of every version to the same location of the other place; what is damaged here is told, and left."""
    from millstream_server.core.errors import Failed
    from millstream_server.node.models import verify

    copied, damaged = 0, 0
    for key, version in versions:
        try:
            files = verify(ours.artifacts, ours.signer, key, version)
        except Failed as error:
            damaged += 1
            click.echo(f"  left out, nobody could load it: {error.message}", err=True)
            continue
        copied += _copy_version(files, theirs.artifacts, key, version)
    left_out = f", {damaged} left out" if damaged else ""
    click.echo(f"model versions: {copied} copied, {len(versions) - copied - damaged} were there{left_out}", err=True)


def _copy_version(files: Path, target: Artifacts, key: str, version: ModelVersion) -> bool:
    """Copy one version; false where it is there, whole."""
    from millstream_server.core.errors import Failed

    if target.measure(version.location) != (0, 0):
        with contextlib.suppress(Failed):  # half of an interrupted copy: it is made anew
            if target.hash_files(target.fetch(version.location)) == target.hash_files(files):
                return False
        target.remove(version.location)
    staged = target.stage(key, version.run, version.attempt)
    try:
        for file in sorted(files.iterdir()):
            shutil.copyfile(file, staged / file.name, follow_symlinks=False)
        target.seal(staged)
    finally:
        target.discard(staged)
    return True


def _wheels(ports: Ports) -> Iterator[Path]:
    for entry in ports.index.entries():
        yield ports.index.fetch(entry.package, entry.version)[0]


def _tell_store(ours: Ports, theirs: Ports) -> None:
    from millstream_server.adapters.sql.copying import count_rows

    counts = count_rows(ours.sql_store)
    held = ", ".join(f"{counts[name]} {said}" for name, said in (("package", "packages"), ("model", "models"), ("run", "runs")))
    click.echo(f"  the store {ours.store.store_id}: {held}; to {theirs.store_place}", err=True)


def _copy_store(ours: Ports, theirs: Ports) -> None:
    from millstream_server.adapters.sql.copying import copy_store as copy

    counts = copy(ours.sql_store, theirs.sql_store)
    click.echo(f"store: {sum(counts.values())} rows are there", err=True)


def _start(source: Settings, store: str, artifacts: str, index: str) -> str:
    said = [("--store", "URL" if store else ""), ("--artifacts", artifacts), ("--index", index)]
    flags = " ".join(f"{flag} {shlex.quote(value)}" for flag, value in said if value)
    return f"millstream up --data-dir {shlex.quote(str(source.data_dir))} {flags}"
