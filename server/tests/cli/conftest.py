"""A data directory without a node, and the shipped command on it as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from millstream_server import app, config
from millstream_server.node.node import topic_specs

Completed = subprocess.CompletedProcess[str]
RunCommand = Callable[..., Completed]


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[app.Ports]:
    """The ports of a new data directory with its topics."""
    opened = app.open_ports(config.load(tmp_path / "data", {}, environ={}), create=True)
    opened.log.create_topics(topic_specs(3_600_000, shared=False))
    opened.store.nodes()
    assert opened.signer is not None
    yield opened
    opened.close()


@pytest.fixture
def data_dir(ports: app.Ports) -> Path:
    """The folder of that data directory, its ports closed."""
    ports.close()
    return ports.data_dir


def clean_environment(**extra: str) -> dict[str, str]:
    """This process's environment without settings of the platform and of terminals."""
    unwanted = ("MILLSTREAM_", "COLUMNS", "LINES")
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)} | extra


def run_command(
    *arguments: object, stdin: str | bytes = "", environ: Mapping[str, str] | None = None, cwd: Path | None = None, timeout_s: float = 60
) -> Completed:
    """Run `millstream` to its end; standard output and error as text."""
    done = subprocess.run(
        [sys.executable, "-c", "from millstream_server.cli.main import main; main()", *map(str, arguments)],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        env=clean_environment() | dict(environ or {}),
        cwd=cwd,
        timeout=timeout_s,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
def millstream(data_dir: Path) -> RunCommand:
    """`millstream` on the data directory without a node."""

    def run(*arguments: object, **options: object) -> Completed:
        return run_command(*arguments, "--data-dir", data_dir, **options)  # type: ignore[arg-type]

    return run
