"""`keys`: which keys prove models here, and how one is exchanged for another without a restart."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from millstream_server.cli.frame import Command, Group, Invocation, as_json, common, pass_invocation

if TYPE_CHECKING:
    from millstream_server.app import Ports

MOST_NAMED = 10


@click.group(
    cls=Group,
    examples=[
        ("millstream keys list", ""),
        ("millstream keys rotate", "a new key signs from now on, the old one stays known"),
        ("millstream keys retire ad8bf4173bcdc32a", "models that it signed load no more"),
    ],
)
@common
def keys() -> None:
    """Look at the keys that sign and prove models, exchange the one that signs, retire one."""


@keys.command("list", examples=[("millstream keys list", ""), ("millstream keys list --json", "")])
@as_json
@common
@pass_invocation
def list_(invocation: Invocation, as_json: bool) -> None:
    """List the keys: the one that signs, those that are known beside it, and retired ones; with the living models of each."""
    from millstream_server.cli.printing import SENTENCES, Column, brief_moment, moment, print_json, print_table

    with invocation.ports() as ports:
        signs, signed = ports.keys.key_id, _signed(ports)
        ring = {key.key_id: key for key in ports.keys.ring.all()}
        rows = []
        for key_id in sorted({signs, *ring, *signed}, key=lambda each: ring[each].since_ms if each in ring else 0):
            state = "signs" if key_id == signs else ports.keys.standing(key_id)
            since_ms = ring[key_id].since_ms if key_id in ring else 0
            rows.append({"key_id": key_id, "state": state, "since_ms": since_ms, "models": signed.get(key_id, [])})
    if as_json:
        print_json(rows)
        return
    table = [(str(r["key_id"]), str(r["state"]), moment(int(str(r["since_ms"]))), _few(list(r["models"]))) for r in rows]  # type: ignore[call-overload]
    print_table(("KEY", "STATE", Column("SINCE", brief_moment), Column("LIVING MODELS", wraps=SENTENCES)), table, nothing="no key yet")


@keys.command(cls=Command, examples=[("millstream keys rotate", "nodes that share the key's folder follow by themselves")])
@common
@pass_invocation
def rotate(invocation: Invocation) -> None:
    """Let a new key sign; the old one stays known, so that every model loads as before.

    Nodes that share the file of the key follow without a restart. A node with a file of its own is told first: `keys add` there.
    """
    with invocation.ports() as ports:
        old, new = ports.keys.rotate()
        public = ports.keys.ring.folder / f"{new}.pub"
    click.echo(f"{new} signs from now on; {old} is known still", err=True)
    click.echo(f"nodes that do not share {public.parent} need it: millstream keys add {public.name}", err=True)
    click.echo(new)


@keys.command(cls=Command, examples=[("millstream keys add other-node/signing-key.pub", "models that it signed load here from now on")])
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@common
@pass_invocation
def add(invocation: Invocation, file: Path) -> None:
    """Let the public key in FILE (PEM) prove models here, also one that was retired. Be sure whose it is: its models run code here."""
    from millstream_server.adapters.keys import read_public
    from millstream_server.adapters.keys.pem import public_pem

    with invocation.ports() as ports:
        key_id = ports.keys.ring.add(public_pem(read_public(file)))
    click.echo(f"{key_id} is known from now on", err=True)
    click.echo(key_id)


@keys.command(cls=Command, examples=[("millstream keys retire ad8bf4173bcdc32a --yes", "")])
@click.argument("key_id", metavar="KEY")
@click.option("--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
@common
@pass_invocation
def retire(invocation: Invocation, key_id: str, yes: bool) -> int:
    """Let a key count no more: models that it signed are loaded nowhere from then on. Workers that have one loaded keep it until they end.

    The key that signs is refused; rotate first. Train its models again before, or they have no answer at the next load.
    """
    from millstream_server.core.errors import Invalid

    with invocation.ports() as ports:
        if key_id == ports.keys.key_id:
            raise Invalid("key_in_use", f"{key_id} is the key that signs")
        if ports.keys.standing(key_id) == "unknown":
            raise Invalid("bad_key", f"there is no key {key_id!r} beside {ports.signing_key}")
        models = _signed(ports).get(key_id, [])
        if models:
            click.echo(f"these models load no more until they are trained again: {_few(models)}", err=True)
            if not _agreed(yes):
                click.echo("nothing is retired", err=True)
                return 0
        ports.keys.ring.retire(key_id)
    click.echo(f"{key_id} is retired", err=True)
    return 0


def _agreed(yes: bool) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        raise click.UsageError("living models need this key and nobody can be asked here; add --yes to do it")
    return click.confirm("retire it?", err=True)


def _signed(ports: Ports) -> dict[str, list[str]]:
    """By key the living models of which it signed a live version."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for state in ports.store.models():
        for key_id in sorted({version.artifact.key_id for version in state.versions}):
            found[key_id].append(state.key)
    return dict(found)


def _few(models: list[str]) -> str:
    if not models:
        return "none"
    more = f" and {len(models) - MOST_NAMED} more" if len(models) > MOST_NAMED else ""
    return f"{len(models)}: {', '.join(models[:MOST_NAMED])}{more}"
