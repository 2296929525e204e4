"""A real S3 gateway for tests: SeaweedFS in a folder of its own, on free loopback ports, to kill, freeze and start again.

The gateway is a child of the process that starts it and ends with it, whatever ends that (parent-death signal), so start it from a thread
that lives as long as the gateway shall. `make s3-gateway` brings the program.

`python -m blackbox.s3 --folder FOLDER --port PORT` is one for a developer, until Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from blackbox.ports import free_ports

PROGRAM = Path(__file__).resolve().parent.parent / ".s3" / "bin" / "weed"
BUCKET, KEY_ID, SECRET, REGION = "models", "millstream-tests", "secret of the tests", "us-east-1"
START_TIMEOUT_S, STOP_TIMEOUT_S = 60.0, 5.0
SERVICES = ("master", "volume", "filer", "s3", "admin")


@dataclass
class S3Gateway:
    """One gateway with one bucket. It is not running until `start`; `close` ends it and removes its folder.

    Args:
        folder: where it keeps everything; one of its own where left out.
        port: of the loopback interface; a free one where 0.
    """

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="millstream-s3-")))
    port: int = 0

    def __post_init__(self) -> None:
        if not PROGRAM.exists():
            raise RuntimeError(f"there is no {PROGRAM}; run: make s3-gateway")
        ports = free_ports(2 * len(SERVICES) + 1)
        self._ports = dict(zip(SERVICES, ports[: len(SERVICES)], strict=True))
        self._inner = dict(zip(SERVICES, ports[len(SERVICES) : -1], strict=True))
        self._metrics = ports[-1]
        if self.port:
            self._ports["s3"] = self.port
        self.port = self._ports["s3"]
        self._process: subprocess.Popen[bytes] | None = None
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        credentials = [{"accessKey": KEY_ID, "secretKey": SECRET}]
        identity = {"name": "tests", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        (self.folder / "s3.json").write_text(json.dumps({"identities": [identity]}))

    def __enter__(self) -> S3Gateway:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make clients reach it."""
        return {"AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": REGION}

    def url(self, prefix: str) -> str:
        return f"s3://{BUCKET}/{prefix}"

    def objects(self, prefix: str = "") -> S3Store:
        """A plain client of ours, to see and change what others keep there."""
        return S3Store(
            BUCKET,
            prefix=prefix or None,
            config={"endpoint": self.endpoint, "region": REGION, "access_key_id": KEY_ID, "secret_access_key": SECRET},
            client_options={"allow_http": True, "timeout": timedelta(seconds=5)},
            retry_config={"max_retries": 0},
        )

    def start(self) -> None:
        """Start it, and wait until an object can be written and read.

        Raises:
            RuntimeError: it ended, or took too long; the message holds the end of its log.
        """
        words = [f"-{name}.port={port}" for name, port in self._ports.items()]
        words += [f"-{name}.port.grpc={port}" for name, port in self._inner.items()]
        words += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self.folder / 'data'}", f"-s3.config={self.folder / 's3.json'}"]
        # Telemetry is on until told not; the other doors are not asked for; the port for metrics would be the same for every gateway.
        words += ["-master.telemetry=false", "-webdav=false", "-s3.port.iceberg=0", "-admin.ui=false", f"-metricsPort={self._metrics}"]
        words += [f"-bucket={BUCKET}"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", str(PROGRAM), "mini", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "HOME": str(self.folder)},
                start_new_session=True,  # Ctrl-C in the terminal is for the tests
            )
        try:
            self._wait_ready(self._process)
        except BaseException:
            self._process.kill()
            raise

    def kill(self) -> None:
        """SIGKILL, as if its machine had crashed with the disk intact."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(STOP_TIMEOUT_S)

    def freeze(self) -> None:
        """SIGSTOP: the kernel still takes connections and bytes, nobody answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _log(self) -> Path:
        return self.folder / "gateway.log"

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)

    def _wait_ready(self, started: subprocess.Popen[bytes]) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while started.poll() is None and time.monotonic() < deadline_s:
            if self._works():
                return
            time.sleep(0.05)  # between two looks at a server that is starting
        raise RuntimeError(f"the S3 gateway did not start: {self._log.read_text(errors='replace')[-3000:]}")

    def _works(self) -> bool:
        """Its door opens a while before the rooms behind it."""
        try:
            obstore.put(self.objects(), ".ready", b"1")
            return bytes(obstore.get(self.objects(), ".ready").bytes()) == b"1"
        except (BaseError, OSError):
            return False


def _main() -> None:
    parser = argparse.ArgumentParser(description="An S3 gateway to try things with, until Ctrl-C.")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, default=8333)
    said = parser.parse_args()
    gateway = S3Gateway(said.folder, said.port)
    gateway.start()
    sys.stdout.write("".join(f"export {name}={value!r}\n" for name, value in gateway.environment.items()) + f"# bucket: s3://{BUCKET}\n")
    sys.stdout.flush()
    try:
        signal.pause()
    except KeyboardInterrupt:
        gateway.kill()


if __name__ == "__main__":
    _main()
