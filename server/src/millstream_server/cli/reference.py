"""The reference pages, made from what the program itself says: commands from click, settings from their docstrings, errors from `CODES`.

Called by `docs/generate.py` and by the test that fails when a page is not what would be made now.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator

import click

from millstream_server import config
from millstream_server.cli.frame import CONNECTIONS, Command, Group
from millstream_server.cli.main import COMMANDS, EXIT_CODES, cli
from millstream_server.core.errors import CODES, Code
from millstream_server.core.states import ALL, States, diagram

KINDS = {
    "invalid": "the input cannot be used; correct it",
    "failed": "it was tried and did not work",
    "dead": "it ended its worker every time it ran alone; its bytes are on `ml.pipeline.dlq`",
    "cancelled": "somebody asked for its end",
    "expired": "there was no result within its `timeout_s`",
    "unavailable": "it cannot be tried now",
}
_SHARED = ("data_dir", "debug", *CONNECTIONS)
_MADE = "<!-- Made by docs/generate.py from the program; do not edit. -->\n"


def pages() -> dict[str, str]:
    """Every generated page, by its path below `docs/`."""
    return {
        "errors.md": errors_page(),
        "reference/cli.md": commands_page(),
        "reference/settings.md": settings_page(),
        "reference/states.md": states_page(),
    }


# --- errors ---------------------------------------------------------------------------------------------------------------


def errors_page() -> str:
    """Every error code by the status or kind it ends in."""
    lines = [
        "# Errors",
        "",
        _MADE,
        "Every error has a code that stays. A result spells it with underscores in `error.code`, the command line with dashes, in",
        "three parts, and ends with an exit code by the kind:",
        "",
        "```",
        "error[no-model]: tenant acme has no model anomaly",
        "where: request 01M7Y6X72ST1ERW6FFR0PWQPSM",
        "mend: train it: millstream invoke anomaly_train --tenant acme --params '{\"values\": ...}'",
        "```",
        "",
        "The first five kinds are also the statuses of results other than `ok`.",
        "",
    ]
    for kind, meaning in KINDS.items():
        lines += [f"## {kind}: {meaning} (exit code {EXIT_CODES[kind]})", ""]
        for code in (code for code in CODES.values() if code.kind == kind):
            lines += _code(code)
    return "\n".join(lines).rstrip() + "\n"


def _code(code: Code) -> list[str]:
    return [f"### {code.name}", "", f"{code.meaning}  ", f"Mend: {code.mend}", ""]


# --- states ---------------------------------------------------------------------------------------------------------------


def states_page() -> str:
    """Every table of states, as a diagram and in words."""
    lines = [
        "# States",
        "",
        _MADE,
        "Who has which states, what may follow what, and what brings it about. The program holds itself to the same tables",
        "([core/states.py](../../server/src/millstream_server/core/states.py)): one module writes the states of each kind, and asks there",
        "before it does. What a release and its environments go through in a deployment: [one release](../concepts/one-release.md).",
        "",
    ]
    for states in ALL:
        lines += _states(states)
    return "\n".join(lines).rstrip() + "\n"


def _states(states: States) -> list[str]:
    owner = f"[{states.owner}](../../server/src/millstream_server/{states.owner})"
    lines = [f"## Of {states.of}", "", f"Written by {owner}.", "", "| state | what it says |", "|---|---|"]
    lines += [f"| {name} | {meaning} |" for name, meaning in states.meanings.items()]
    lines += ["", "```mermaid", *diagram(states).splitlines(), "```", "", "| from | to | when |", "|---|---|---|"]
    return [*lines, *(f"| {move.before} | {move.after} | {move.when} |" for move in states.moves), ""]


# --- commands -------------------------------------------------------------------------------------------------------------


def commands_page() -> str:
    """Every command with its arguments, options and examples."""
    context = click.Context(cli, info_name="millstream")
    lines = ["# The command `millstream`", "", _MADE, *_text(cli), ""]
    lines += ["Options that every command takes, besides its own:", "", *_table([p for p in cli.params if p.name in _SHARED], context)]
    for title, section in COMMANDS.items():
        lines += [f"## {title}", ""]
        for name in section:
            command = cli.get_command(context, name)
            assert command is not None
            for path, each in _with_children(f"millstream {name}", command):
                lines += _command(path, each)
    return "\n".join(lines).rstrip() + "\n"


def _with_children(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from _with_children(f"{path} {name}", child)


def _command(path: str, command: click.Command) -> list[str]:
    context = click.Context(command, info_name=path)
    if isinstance(command, click.Group):
        return [f"### {path}", "", *_text(command), ""]
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"### {path}", "", f"`{path} {usage}`", "", *_text(command), ""]
    lines += _table([parameter for parameter in command.params if parameter.name not in _SHARED], context)
    if isinstance(command, (Command, Group)) and command.examples:
        lines += ["```", *(f"{example}   # {comment}" if comment else example for example, comment in command.examples), "```", ""]
    return lines


def _table(parameters: list[click.Parameter], context: click.Context) -> list[str]:
    options = [parameter for parameter in parameters if isinstance(parameter, click.Option)]
    return ["| option | what it does |", "|---|---|", *(_option(option, context) for option in options), ""] if options else []


def _text(command: click.Command) -> list[str]:
    """The help text; what click keeps unwrapped is shown so here too."""
    lines: list[str] = []
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        kept = paragraph.removeprefix("\b\n")
        lines += [""] * bool(lines) + (["```text", kept, "```"] if kept != paragraph and "\n" in kept else [kept])
    return lines


def _option(option: click.Option, context: click.Context) -> str:
    record = option.get_help_record(context)
    assert record is not None, f"{option.name} has no help"
    names, text = record
    return f"| `{names.replace('|', chr(92) + '|')}` | {text} |"


# --- settings -------------------------------------------------------------------------------------------------------------


def settings_page() -> str:
    """Every setting with its variable, default and meaning."""
    defaults = config.load(None, {}, environ={})
    lines = [
        "# Settings",
        "",
        _MADE,
        f"Defaults stand below the file `{config.FILE_NAME}` in the data directory, that below the environment, that below flags",
        "(`millstream up --set SETTING=VALUE`). All faults are told together. `millstream config show` prints every value and its origin.",
        "",
        f"The data directory itself is given by `--data-dir` or `{config.DATA_DIR_VARIABLE}`; else it is `~/.millstream`.",
        "",
    ]
    for section, struct in config.SECTIONS.items():
        lines += [f"## [{section}]", "", inspect.getdoc(struct) or "", "", "| setting | variable | default | |", "|---|---|---|---|"]
        described = field_docs(struct)
        for name in (name for name in config.names() if name.startswith(f"{section}.")):
            value = config.value_of(defaults, name)
            spoken = " ".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)
            meaning = described[name.removeprefix(f"{section}.")]
            lines.append(f"| `{name}` | `{config.variable(name)}` | {f'`{spoken}`' if spoken else 'none'} | {meaning} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def field_docs(struct: type) -> dict[str, str]:
    """The docstring below each field of a struct, which Python itself throws away."""
    body = ast.parse(inspect.getsource(struct)).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text)
    return found
