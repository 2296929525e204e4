"""`config show`: every setting with its value and where that comes from; and `--set`, which gives any of them."""

from __future__ import annotations

import click

from millstream_server.cli.frame import F, Group, Invocation, as_json, common, pass_invocation


def _parse_settings(_: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    from millstream_server import config

    parsed: dict[str, str] = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals or name not in config.names():
            from difflib import get_close_matches

            near = get_close_matches(name, config.names(), n=3)
            hint = f" Did you mean {' or '.join(near)}?" if near and equals else ""
            raise click.BadParameter(f"{word!r} is not SETTING=VALUE with a setting of: millstream config show.{hint}", param=parameter)
        parsed[name] = config.Said(value)
    return parsed


def set_option(command: F) -> F:
    """Add `--set SECTION.NAME=VALUE`, handed over as `settings`."""
    return click.option(
        "--set", "settings", multiple=True, callback=_parse_settings, metavar="SETTING=VALUE", help="Give any setting; may be repeated."
    )(command)


@click.group("config", cls=Group, examples=[("millstream config show", ""), ("millstream config show --json", "")])
@common
def config_group() -> None:
    """Show the settings in force."""


@config_group.command(
    "show",
    examples=[
        ("millstream config show", "value and origin of every setting"),
        ("millstream config show --json --data-dir ./data", ""),
        ("MILLSTREAM_NODE_WORKERS=2 millstream config show", "the environment stands over the file"),
    ],
)
@set_option
@as_json
@common
@pass_invocation
def show(invocation: Invocation, settings: dict[str, str], as_json: bool) -> None:
    """Show every setting with its value and its origin.

    Defaults stand below the file millstream.toml in the data directory, that below the environment, that below flags. Faults of
    all of them are told together. Passwords are not shown.
    """
    from millstream_server import config
    from millstream_server.cli.printing import Column, print_json, print_table

    found = invocation.settings(settings)
    rows = [("data_dir", str(found.data_dir), found.origins["data_dir"])]
    if as_json:
        values: list[tuple[str, object, str]] = [(name, config.shown(found, name), found.origins[name]) for name in config.names()]
        print_json([{"setting": name, "value": value, "origin": origin} for name, value, origin in [*rows, *values]])
        return
    rows += [(name, _spoken(config.shown(found, name)), found.origins[name]) for name in config.names()]
    print_table(("SETTING", Column("VALUE", wraps=20), Column("ORIGIN", wraps=10)), rows, nothing="no settings")


def _spoken(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={each}" for name, each in value.items()) or "(none)"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "(none)"
    return f"{value:g}" if isinstance(value, float) else str(value)
