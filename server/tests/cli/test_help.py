"""What the command says of itself."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from millstream_server import config
from millstream_server.cli.frame import Command, Group
from millstream_server.cli.main import COMMANDS, cli
from millstream_server.cli.reference import field_docs, pages
from millstream_server.core.errors import CODES
from millstream_server.environments import init


def all_commands(group: click.Group = cli, path: str = "millstream") -> Iterator[tuple[str, click.Command]]:
    """Every command and group with the words that call it."""
    yield path, group
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from all_commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


ALL = dict(all_commands())


@pytest.mark.parametrize("path", ALL)
def test_every_help_page_ends_in_worked_examples(path: str) -> None:
    """A help page says what the command does and ends with a section of examples that can be pasted."""
    command = ALL[path]

    page = command.get_help(click.Context(command, info_name=path))

    assert isinstance(command, (Command, Group))
    assert command.examples
    assert command.help
    assert page.rstrip().splitlines()[-1].startswith("  $ ")
    assert "\nExamples:\n" in page


@pytest.mark.parametrize("path", ALL)
def test_every_option_has_help(path: str) -> None:
    """No option stands in a help page without a word on what it does."""
    options = [parameter for parameter in ALL[path].params if isinstance(parameter, click.Option)]

    assert all(option.help for option in options)
    assert {"data_dir", "debug"} <= {option.name for option in options}


@pytest.mark.parametrize(("path", "example"), [(path, example) for path, command in ALL.items() for example, _ in command.examples])  # type: ignore[attr-defined]
def test_every_example_names_a_command_and_options_that_exist(path: str, example: str) -> None:
    """An example is read by the real parsers, so that one with a misspelled option fails here."""
    calls = [call for call in example.replace("|", "&&").replace(";", "&&").split("&&") if "millstream " in call]

    assert calls
    for call in calls:
        words = shlex.split(call.split("<")[0].split(">")[0])
        words = words[words.index("millstream") + 1 :]
        command: click.Command = cli
        while isinstance(command, click.Group):
            name, words = words[0], words[1:]
            found = command.get_command(click.Context(command), name)
            assert found is not None, call
            command = found
        command.make_context("millstream", list(words), resilient_parsing=False)


def test_examples_ask_pipelines_that_init_makes() -> None:
    """Whoever follows the help from `millstream init anomaly` on asks for what is there, with parameters of that name."""
    examples = [example for command in ALL.values() for example, _ in command.examples]  # type: ignore[attr-defined]
    source = Path(init.__file__).parent / "template/src/packagename/pipelines.py.in"
    written = source.read_text().replace("packagename", "anomaly")

    asked = {name for example in examples for name in re.findall(r'millstream invoke (\w+)|"pipeline": "(\w+)"', example)}
    names = {name for pair in asked for name in pair if name}

    assert names
    assert {name for name in names if f"def {name}(" not in written} == set()


def test_the_summaries_of_the_root_are_those_of_the_commands() -> None:
    """The root's help shows summaries that it keeps by itself; each is the first line of its command's help."""
    for section in COMMANDS.values():
        for name, (_, summary) in section.items():
            command = cli.get_command(click.Context(cli), name)
            assert command is not None
            assert command.help is not None
            assert " ".join(command.help.split("\n\n")[0].split()) == summary


def test_help_comes_at_once() -> None:
    """The root's help imports no command, no log and no store: it comes within 150 ms of processor time."""
    code = "import sys; from millstream_server.cli.main import cli; cli.get_help(__import__('click').Context(cli)); print(*sys.modules)"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())

    assert not loaded & {"sqlalchemy", "cryptography", "rich", "uvloop", "apsw", "asyncio", "msgspec", "millstream_server.app"}
    assert time.monotonic() - started < 5  # a collapse, not noise: the figure itself is a benchmark's


def test_an_unknown_command_is_told_with_the_near_ones() -> None:
    """A misspelled command names the one that was meant, with the exit code of wrong usage."""
    done = subprocess.run(
        [sys.executable, "-c", "from millstream_server.cli.main import main; main()", "deplo"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert "deploy" in done.stderr


# --- the reference pages --------------------------------------------------------------------------------------------------


def test_every_code_setting_and_command_has_a_place_in_the_reference() -> None:
    """What would be generated names every error code, every setting with its docstring, and every command."""
    made = pages()

    assert all(f"### {name}\n" in made["errors.md"] for name in CODES)
    assert all(f"`{name}`" in made["reference/settings.md"] for name in config.names())
    assert all(f"### {path}\n" in made["reference/cli.md"] for path in ALL if path != "millstream")
    assert all(field_docs(struct).keys() == set(struct.__struct_fields__) for struct in config.SECTIONS.values())
