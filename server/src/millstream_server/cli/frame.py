"""What all commands share: their class, the options `--data-dir` and `--debug`, and what they are handed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from millstream_server.app import Ports
    from millstream_server.config import Settings

F = TypeVar("F", bound=Callable[..., object])
Example = tuple[str, str]
"""A command that can be pasted, and what it does (or empty)."""


class Command(click.Command):
    """A command whose help ends in worked examples."""

    def __init__(self, *args: Any, examples: Sequence[Example] = (), **kwargs: Any) -> None:  # as click does
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(self.examples, formatter)


class Group(click.Group):
    """A group of commands; its help too ends in worked examples."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, examples: Sequence[Example] = (), **kwargs: Any) -> None:  # as click does
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(self.examples, formatter)


def write_examples(examples: Sequence[Example], formatter: click.HelpFormatter) -> None:
    """Write the section at the end of a help page; commands are never wrapped, so that they can be pasted."""
    formatter.write_paragraph()
    formatter.write("Examples:\n")
    for command, comment in examples:
        formatter.write(f"  $ {command}\n" if not comment else f"  $ {command}   # {comment}\n")


class Invocation:
    """One run of the command: the shared options, and the way to settings and ports."""

    def __init__(self) -> None:
        self.debug = False
        self.data_dir: Path | None = None
        self.connections: dict[str, str] = {}

    def settings(self, flags: Mapping[str, object] | None = None, *, follow_node: bool = True) -> Settings:
        """Read the settings; `flags` by `section.name`; `follow_node`: where nothing else is said, connect where the node is.

        Raises:
            Invalid: bad_config, with every fault.
        """
        from millstream_server import config

        settings = config.load(self.data_dir, self.connections | dict(flags or {}), follow_node=follow_node)
        if settings.environments.pythons:  # the search for interpreters reads this variable, here and in what we start
            os.environ[config.variable("environments.pythons")] = os.pathsep.join(settings.environments.pythons)
        return settings

    @contextlib.contextmanager
    def ports(self) -> Iterator[Ports]:
        """Look at a data directory that is there; each port opens at its first use, all are closed at the end.

        Raises:
            Unavailable: no_node, data_dir_unusable, data_dir_too_new.
        """
        from millstream_server import app

        with contextlib.closing(app.open_ports(self.settings())) as ports:
            yield ports


def _keep_data_dir(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.ensure_object(Invocation).data_dir = value


def _keep_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Invocation).debug = True


def _keep_connection(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Invocation).connections[CONNECTIONS[str(parameter.name)][0]] = value


CONNECTIONS = {
    "kafka": ("kafka.bootstrap", "HOST:PORT", "A Kafka cluster in place of the embedded log."),
    "store": ("shared.store", "URL", "A store that nodes share: postgresql://USER:PASSWORD@HOST/DATABASE."),
    "artifacts": ("shared.artifacts", "FOLDER|s3://BUCKET/PREFIX", "The models' files that nodes share."),
    "index": ("shared.index", "FOLDER|URL", "The published releases that nodes share: a folder, or the simple pages of a package index."),
    "signing_key": ("shared.signing_key", "FILE", "The key that signs models, of nodes that share them."),
}
"""Options of every command: setting, value and help. A command on a node's data directory finds them by itself."""


def common(command: F) -> F:
    """Add `--data-dir`, `--debug` and the connections; their values are in the `Invocation`, whatever level they were given at."""
    for name, (_, metavar, said) in reversed(CONNECTIONS.items()):
        flag = "--" + name.replace("_", "-")
        command = click.option(flag, name, expose_value=False, callback=_keep_connection, metavar=metavar, help=said)(command)
    debug = click.option("--debug", is_flag=True, expose_value=False, callback=_keep_debug, help="Show tracebacks of failures.")
    data_dir = click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        expose_value=False,
        callback=_keep_data_dir,
        metavar="FOLDER",
        help="The data directory; else MILLSTREAM_DATA_DIR, else ~/.millstream.",
    )
    return data_dir(debug(command))


def as_json(command: F) -> F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)
