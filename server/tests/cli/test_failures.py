"""How failures are told: three parts, an exit code by kind, no traceback."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
from millstream_server.cli import main
from millstream_server.core.errors import CODES, Failed, Invalid, Unavailable

from .conftest import RunCommand, clean_environment, run_command


@pytest.mark.parametrize("code", CODES)
def test_every_code_ends_in_its_three_parts_and_the_exit_code_of_its_kind(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The label has dashes, the mend is the code's own where none fits better, and the kind decides the exit code."""
    expected = {"invalid": 3, "failed": 4, "dead": 4, "cancelled": 4, "expired": 5, "unavailable": 5}[CODES[code].kind]

    exit_code = main.tell(Invalid(code, "what failed", where="the place"))

    assert exit_code == expected
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"error[{code.replace('_', '-')}]: what failed", "where: the place", f"mend: {CODES[code].mend}"]


def test_a_failure_without_a_place_has_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is nothing to say of the place, the line is left out."""
    main.tell(Failed("deploy_failed", "no", mend="do"))

    assert capsys.readouterr().err == "error[deploy-failed]: no\nmend: do\n"


def test_what_a_caller_wrote_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters of a message are shown escaped; its lines stay lines."""
    main.tell(Invalid("bad_input", "a\x1b[2Jb\nsecond", where="\r"))

    assert capsys.readouterr().err.splitlines()[:3] == ["error[bad-input]: a\\x1b[2Jb", "second", "where: \\r"]


@pytest.mark.parametrize(
    ("error", "label", "exit_code"),
    [
        (RuntimeError("boom"), "internal", 4),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "no-space", 5),
        (OSError(errno.EROFS, "Read-only file system", "/x"), "data-dir-unusable", 5),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "data-dir-unusable", 5),
        (OSError(errno.EMFILE, "Too many open files"), "log-unavailable", 5),
        (OSError(errno.EIO, "Input/output error"), "internal", 4),
        (Unavailable("no_node", "none"), "no-node", 5),
    ],
)
def test_errors_that_nobody_foresaw_are_told_in_three_parts_too(
    error: Exception, label: str, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the operating system says by itself keeps its meaning; anything else is internal."""
    assert main.tell(error) == exit_code
    assert capsys.readouterr().err.startswith(f"error[{label}]: ")


def test_there_is_no_traceback_unless_it_is_asked_for(tmp_path: Path) -> None:
    """A data directory that cannot be read ends in three parts; with --debug its traceback is shown."""
    (tmp_path / "data.json").write_text("{")

    told = run_command("topics", "list", "--data-dir", tmp_path)
    debugged = run_command("topics", "list", "--data-dir", tmp_path, "--debug")

    assert told.returncode == 5
    assert told.stderr.startswith("error[data-dir-unusable]: ")
    assert "Traceback" not in told.stderr
    assert "Traceback" in debugged.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["topics", "list"],
        ["topics", "read", "ml.pipeline.input"],
        ["releases", "list"],
        ["models", "list"],
        ["runs", "list"],
        ["dlq", "list"],
        ["status"],
        ["logs"],
        ["node"],
        ["invoke", "detect"],
        ["deploy", "anomaly==1.0.0"],
    ],
)
def test_without_a_data_directory_a_command_names_the_one_that_makes_it(arguments: list[str], tmp_path: Path) -> None:
    """Nothing is made in passing: the mend is the command that does."""
    folder = tmp_path / "not there"

    done = run_command(*arguments, "--data-dir", folder)

    assert done.returncode == 5
    assert "error[no-node]" in done.stderr
    assert f"mend: millstream up --data-dir '{folder}'" in done.stderr
    assert not folder.exists()


def test_settings_that_cannot_be_used_are_told_all_at_once(millstream: RunCommand, data_dir: Path) -> None:
    """Every command reads the settings, and ends with the exit code of invalid input where they have faults."""
    (data_dir / "millstream.toml").write_text("[node]\nworker = 2\n")

    done = millstream("topics", "list", environ={"MILLSTREAM_NODE_ROLE": "queen"})

    assert done.returncode == 3
    assert "did you mean node.workers" in done.stderr
    assert "queen" in done.stderr


def test_a_reader_that_had_enough_ends_the_command_quietly(millstream: RunCommand, data_dir: Path) -> None:
    """A closed pipe is no error to tell: exit code 141, as of a program that the signal ended, and not a word."""
    lines = "".join(json.dumps({"id": f"r{number}", "pad": "x" * 200}) + "\n" for number in range(5000))
    assert millstream("topics", "append", "ml.pipeline.input", stdin=lines).returncode == 0

    code = "from millstream_server.cli.main import main; main()"
    argv = [sys.executable, "-c", code, "topics", "read", "ml.pipeline.input", "--json", "--data-dir", str(data_dir)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.readline()
        process.stdout.close()
        told = process.stderr.read()

    assert first
    assert process.returncode == 141
    assert told == b""


@pytest.mark.parametrize(
    "arguments",
    [
        ["topics", "read", "x", "--offset", "3"],
        ["topics", "read", "x", "--partition", "1", "--offset", "3", "--from-start"],
        ["topics", "append", "x", "--base64"],
        ["dlq", "replay"],
        ["dlq", "replay", "3/1", "--all"],
        ["config", "show", "--set", "node.worker=3"],
        ["invoke", "detect", "--timeout", "0"],
        ["up", "--role", "king"],
    ],
)
def test_wrong_usage_ends_with_exit_code_two(arguments: list[str], tmp_path: Path) -> None:
    """Words that do not fit together are wrong usage, told before anything is opened."""
    done = run_command(*arguments, "--data-dir", tmp_path / "none")

    assert done.returncode == 2, done.stderr
    assert "Error: " in done.stderr
