"""`models promote`, `rollback`, `pin` and `unpin`: write which version is to answer or to stay at hand, then follow what nodes do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from millstream_server.cli.frame import Command, Invocation, common, pass_invocation

if TYPE_CHECKING:
    from millstream_server.app import Ports
    from millstream_server.cli.serving import Wish
    from millstream_server.core.model import ModelState, ModelVersion

model_argument = click.argument("model", metavar="TENANT.MODEL")
version_argument = click.argument("version", metavar="VERSION", type=click.IntRange(1))
no_wait_option = click.option("--no-wait", is_flag=True, help="Only ask for it; nodes do it whether anybody watches or not.")


@click.command(
    cls=Command,
    examples=[
        ("millstream models promote acme.anomaly 3", "and follow it until every node answers with it"),
        ("millstream models promote acme.anomaly 3 --no-wait", "see: millstream models show acme.anomaly"),
    ],
)
@model_argument
@version_argument
@no_wait_option
@common
@pass_invocation
def promote(invocation: Invocation, model: str, version: int, no_wait: bool) -> int:
    """Make any version of a model its champion, and follow it until every node answers with it.

    The champion before it answers until then, and is the previous version afterwards. A release that has retired is taken up again, and
    nodes install it first. A version whose files are gone, damaged or not signed is refused, and nothing changes. Ctrl-C stops the
    watching, not the promotion.
    """
    with invocation.ports() as ports:
        return _change_champion(ports, model, lambda _: version, no_wait)


@click.command(cls=Command, examples=[("millstream models rollback acme.anomaly", "once more to go forward again")])
@model_argument
@no_wait_option
@common
@pass_invocation
def rollback(invocation: Invocation, model: str, no_wait: bool) -> int:
    """Make the previous version of a model its champion again; a second rollback undoes the first."""
    with invocation.ports() as ports:
        return _change_champion(ports, model, _previous, no_wait)


@click.command(cls=Command, examples=[("millstream models pin acme.anomaly 3", "")])
@model_argument
@version_argument
@no_wait_option
@common
@pass_invocation
def pin(invocation: Invocation, model: str, version: int, no_wait: bool) -> int:
    """Keep a version at hand: its files and its release's environments stay, however often the model is trained.

    It can be promoted at once from then on. A release that has retired is taken up again, and followed until nodes have installed it.
    """
    from millstream_server.cli.serving import Wish
    from millstream_server.core.models_by_hand import pin as pinned

    def change(state: ModelState, found: ModelVersion) -> ModelState:
        return pinned(state, found)

    with invocation.ports() as ports:
        before, after, found = _write(ports, model, lambda _: version, change)
        said = "is pinned already" if after is before else "is pinned: it stays at hand"
        click.echo(f"{after.key} v{version} {said}", err=True)
        return _follow(ports, Wish(after.key, found, after.revision, answers=False), no_wait)


@click.command(cls=Command, examples=[("millstream models unpin acme.anomaly 3", "")])
@model_argument
@version_argument
@common
@pass_invocation
def unpin(invocation: Invocation, model: str, version: int) -> None:
    """Let a pinned version go: it is kept no longer than others are."""
    from millstream_server.cli.versions import TRIES, find_model, find_version, lost_races
    from millstream_server.core.models_by_hand import unpin as unpinned

    with invocation.ports() as ports:
        for _ in range(TRIES):
            state = find_model(ports, model)
            find_version(ports, state, version)
            after = unpinned(state, version)
            if after is state:
                click.echo(f"{state.key} v{version} is not pinned", err=True)
                return
            if ports.store.save_model(after):
                click.echo(f"{state.key} v{version} is pinned no more", err=True)
                return
    raise lost_races(model)


def _change_champion(ports: Ports, model: str, which: Callable[[ModelState], int], no_wait: bool) -> int:
    from millstream_server.cli.serving import Wish
    from millstream_server.cli.versions import asker, now_ms
    from millstream_server.core.models_by_hand import promote as promoted

    def change(state: ModelState, version: ModelVersion) -> ModelState:
        return promoted(state, version, asker(), now_ms())

    before, after, found = _write(ports, model, which, change)
    if after is before:
        click.echo(f"{after.key} v{after.champion} is the champion already", err=True)
    else:
        until = f"; v{after.previous} answers until it is loaded" if after.previous else ""
        click.echo(f"{after.key} v{after.champion} is the champion{until}", err=True)
    return _follow(ports, Wish(after.key, found, after.revision, answers=True), no_wait)


def follow_wish(ports: Ports, state: ModelState, version: ModelVersion) -> int:
    """Wait until nodes answer with the champion that was just written."""
    from millstream_server.cli.serving import Wish

    return _follow(ports, Wish(state.key, version, state.revision, answers=True), no_wait=False)


def _previous(state: ModelState) -> int:
    from millstream_server.core.models_by_hand import roll_back

    return roll_back(state, "", 0).champion


def _write(
    ports: Ports, model: str, which: Callable[[ModelState], int], change: Callable[[ModelState, ModelVersion], ModelState]
) -> tuple[ModelState, ModelState, ModelVersion]:
    """Change a model by one of its versions, which is whole, together with the release that it needs: the state before and after."""
    from millstream_server.cli.versions import TRIES, check_usable, find_model, find_version, lost_races, release_taken_up

    for _ in range(TRIES):
        state = find_model(ports, model)
        version = find_version(ports, state, which(state))
        check_usable(ports, state, version)
        after = change(state, version)
        if after is state:
            return state, state, version
        package = release_taken_up(ports, version)
        if ports.store.save_model(after, package=package):
            if package is not None:
                click.echo(f"{version.package}=={version.release} has retired; nodes take it up again", err=True)
            return state, after, version
    raise lost_races(model)


def _follow(ports: Ports, wish: Wish, no_wait: bool) -> int:
    """Wait until nodes have done it, where anybody is to wait and any node is there."""
    from millstream_server import app
    from millstream_server.cli.deploy import INTERRUPTED
    from millstream_server.cli.serving import follow, serving_nodes

    nobody = not serving_nodes(ports.store) or (not ports.settings.shared.store and app.holder(ports.settings) is None)
    if nobody:
        click.echo(f"no node works on {ports.data_dir}: it is done by the next `millstream up`", err=True)
    if no_wait or nobody:
        return 0
    try:
        return follow(ports.store, wish, ports.settings.node.deploy_timeout_s)
    except KeyboardInterrupt:
        number = wish.version.version
        again = f"promote {wish.key} {number}" if wish.answers else f"pin {wish.key} {number}"
        undo = f"rollback {wish.key}" if wish.answers else f"unpin {wish.key} {number}"
        click.echo(
            f"\nnodes go on without this command\n  to follow it again: millstream models {again}\n"
            f"  to undo it:         millstream models {undo}",
            err=True,
        )
        return INTERRUPTED
