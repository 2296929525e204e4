"""The root command, and the one place where failures become words and exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import click

from millstream_server.cli.frame import Group, Invocation, common

if TYPE_CHECKING:
    from millstream_server.core.errors import MillstreamError

OK, USAGE, INVALID, FAILED, UNAVAILABLE = 0, 2, 3, 4, 5
INTERRUPTED = 130
"""Ctrl-C, as shells spell it: 128 + SIGINT."""
CLOSED_PIPE = 141
"""Whoever read the output has gone, as shells spell it: 128 + SIGPIPE."""

EXIT_CODES = {
    "ok": OK,
    "invalid": INVALID,
    "failed": FAILED,
    "dead": FAILED,
    "cancelled": FAILED,
    "expired": UNAVAILABLE,
    "unavailable": UNAVAILABLE,
}
"""Exit code by the status of a result or the kind of an error code."""

COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "Run it": {
        "up": ("nodes:up", "Run the platform on a data directory: log, store and node in one process."),
        "node": ("nodes:node", "Run a node on a data directory that is there already."),
        "status": ("status:status", "Show what every node does, unhealthy lines first."),
        "logs": ("logs:logs", "Read the one log of node and workers: who did what for which request, in which release."),
        "doctor": ("doctor:doctor", "Look for everything that is known to go wrong, and say how to mend it."),
        "config": ("settings:config_group", "Show the settings in force."),
        "copy-store": (
            "copying:copy_store",
            "Copy releases, models and runs to a store that nodes can share, with the models' files and the published releases.",
        ),
    },
    "Write a package and release it": {
        "init": ("packages:init", "Start a package that builds, tests, deploys and answers as it is."),
        "dev": ("dev:dev", "Run the platform on a package's folder, and release anew whenever a file of it is saved."),
        "build": ("packages:build", "Build a package into a wheel that carries its lock and its manifest."),
        "publish": ("packages:publish", "Put a built wheel on the release index."),
        "wheelhouse": ("packages:wheelhouse", "Gather every wheel of a published release into DIR, to install it where no index is."),
        "deploy": ("deploy:deploy", "Make a published version the current release, and follow it until it is."),
        "releases": ("releases:releases", "List releases and show one of them."),
        "environments": ("environments:environments", "Make, look at, try and remove the environments of this machine by hand."),
    },
    "Use it": {
        "invoke": ("invoke:invoke", "Put one request on the log and wait for its result."),
        "runs": ("runs:runs", "Look at runs, read their log, cancel one."),
        "models": ("models:models", "Look at models, choose which version answers, delete one, import one of MLflow."),
        "keys": ("keys:keys", "Look at the keys that sign and prove models, exchange the one that signs, retire one."),
        "topics": ("topics:topics", "Look at topics, read one, append to one."),
        "dlq": ("dlq:dlq", "Look at dead letters and send them again."),
    },
}
"""Every command by section: where it is, and the summary that the root's help shows without importing it (a test compares)."""


class Root(Group):
    """Imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in COMMANDS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for section in COMMANDS.values():
            if cmd_name in section:
                module, _, attribute = section[cmd_name][0].partition(":")
                command: click.Command = getattr(importlib.import_module(f"millstream_server.cli.{module}"), attribute)
                return command
        return None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            from difflib import get_close_matches

            near = get_close_matches(name, self.list_commands(ctx))
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(f"there is no command {name}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, summary) for name, (_, summary) in section.items()])

    def invoke(self, ctx: click.Context) -> object:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:  # caught here because click would end with the exit code of a usage error
            leave_closed_pipe()
        return result


@click.group(
    cls=Root,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    examples=[
        ("millstream up", "the platform on ~/.millstream, until Ctrl-C"),
        ("millstream init anomaly && cd anomaly && millstream build && millstream publish && millstream deploy anomaly==0.1.0", ""),
        ("millstream invoke anomaly_train --tenant acme --params '{\"values\": [20.0, 20.5, 19.5]}'", ""),
        ('millstream invoke anomaly_judge --tenant acme --params \'{"reading": {"sensor": "door", "value": 27.5}}\'', ""),
        ("millstream status --watch", ""),
    ],
)
@click.version_option(package_name="millstream-server", prog_name="millstream", message="%(prog)s %(version)s")
@common
def cli() -> None:
    """Run machine-learning pipelines: requests on a log in, exactly one result each out.

    Every command takes --data-dir (else MILLSTREAM_DATA_DIR, else ~/.millstream) and --debug. What was asked for goes to
    standard output, progress and errors to standard error.

    \b
    Exit codes: 0 ok, 2 wrong usage, 3 invalid input, 4 failed, 5 unavailable or out of time, 130 interrupted.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and end the process with its exit code."""
    invocation = Invocation()
    try:
        code = cli.main(args=None if arguments is None else list(arguments), prog_name="millstream", obj=invocation, standalone_mode=False)
    except click.Abort:
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        leave_closed_pipe()
    except Exception as error:
        if invocation.debug:
            raise
        sys.exit(tell(error))
    sys.exit(code if isinstance(code, int) else OK)


def tell(error: Exception) -> int:
    """Print an error in its three parts on standard error and return the exit code."""
    from millstream_server.core.errors import CODES

    error = as_told(error)
    print_error(error.label, error.message, error.where, error.mend)
    return EXIT_CODES[CODES[error.code].kind]


def as_told(error: Exception) -> MillstreamError:
    """Any failure as one of ours."""
    from millstream_server.core.errors import Failed, MillstreamError

    if isinstance(error, MillstreamError):
        return error
    return _of_system(error) or Failed("internal", f"{type(error).__name__}: {error}")


def print_error(label: str, message: str, where: str, mend: str) -> None:
    """Print `error[label]: message`, `where: ...` and `mend: ...`; what a caller wrote cannot steer the terminal."""
    from millstream_server.core.logbook import plain

    lines = [f"error[{label}]: {message}", *([f"where: {where}"] if where else []), f"mend: {mend}"]
    click.echo("\n".join(plain(line) for line in "\n".join(lines).split("\n")), err=True)


def _of_system(error: Exception) -> MillstreamError | None:
    """The errors of the operating system that say by themselves what to do."""
    import errno

    from millstream_server.core.errors import Unavailable

    if not isinstance(error, OSError):
        return None
    where = str(error.filename or "")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Unavailable("no_space", "no space is left on the disk", where=where)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Unavailable("data_dir_unusable", f"{error.strerror}: {where}", where=where)
    if error.errno == errno.EMFILE:
        return Unavailable("log_unavailable", "too many files are open", mend="raise the limit: ulimit -n 4096")
    return None


def leave_closed_pipe() -> NoReturn:
    """End quietly when nobody reads the output any more; what is still buffered goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(CLOSED_PIPE)
