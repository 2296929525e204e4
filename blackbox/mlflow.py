"""A real MLflow server for tests, of the environment that `make mlflow` makes; to kill, freeze and start again on the same port.

Beside it stands the plain client of that environment (`PlainClient`), which knows nothing of this project.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blackbox.ports import free_ports
from blackbox.processes import tree

PROGRAMS = Path(__file__).parent.parent / ".mlflow" / "venv" / "bin"
START_TIMEOUT_S = 120.0
_SCRIPT = """
import json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
from mlflow import MlflowClient
from mlflow.entities import ViewType
client = MlflowClient(sys.argv[1], sys.argv[1])
for line in sys.stdin:
    try:
        said = (eval(json.loads(line)), "")
    except Exception as error:
        said = (None, repr(error))
    print(json.dumps(said, default=str), file=answers, flush=True)
"""
SETTINGS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}


class MlflowMissing(Exception):
    """The environment is not there; the message holds the command that makes it."""

    def __init__(self) -> None:
        super().__init__("MLflow's server is not here; run: make mlflow")


@dataclass
class MlflowServer:
    """One server; not running until `start`.

    Args:
        backend: SQLAlchemy's address of its database, such as postgresql+psycopg://USER@HOST/DATABASE.
        folder: of its artifacts and of its log.
        artifacts: where it keeps files, another place than in `folder` (s3://...).
        settings: further environment variables, such as the login of an S3 store.
    """

    backend: str
    folder: Path
    artifacts: str = ""
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (PROGRAMS / "mlflow").exists():
            raise MlflowMissing
        (self.port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> MlflowServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            RuntimeError: it ended or took too long; the message holds the end of its log.
        """
        self.begin()
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s and self._process is not None and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:  # noqa: S310 - a server of our own
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.1)
        said = self._log.read_text(errors="replace")[-3000:]
        self.close()
        raise RuntimeError(f"the server did not start: {said}")

    def begin(self) -> None:
        """Start it without waiting."""
        self.folder.mkdir(parents=True, exist_ok=True)
        place = ["--artifacts-destination", self.artifacts or str(self.folder / "artifacts")]
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(PROGRAMS / "mlflow"), "server", "--workers", "1", "--backend-store-uri", self.backend, *place, *address],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=_environment(self.settings),
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL to all its processes."""
        if self._process is None:
            return
        for one in [*tree(self._process.pid)]:
            _send(one.pid, signal.SIGKILL)
        self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP to all its processes: connections are taken, nobody answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        for one in tree(self._process.pid):
            _send(one.pid, number)

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"


class PlainClient:
    """A plain script with MLflow's client, kept running because its start takes seconds; it knows nothing of this project.

    Args:
        uri: MLflow's tracking URI.
    """

    def __init__(self, uri: str) -> None:
        if not (PROGRAMS / "python").exists():
            raise MlflowMissing
        self._process = subprocess.Popen(
            [str(PROGRAMS / "python"), "-c", _SCRIPT, uri],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment({}),
            text=True,
        )

    def __call__(self, code: str) -> Any:
        """Evaluate an expression in which `client` is MLflow's client, and return its value; it must be JSON.

        Raises:
            RuntimeError: what the client raised.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        value, error = json.loads(line) if line else (None, f"the script ended with exit code {self._process.wait()}")
        if error:
            raise RuntimeError(f"{code}: {error}")
        return value

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def _environment(extra: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW", "MILLSTREAM"))}
    return kept | SETTINGS | extra


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # it has ended by itself
