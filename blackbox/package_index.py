"""Real package indexes for tests: a pypiserver with a login, and a server that does to its askers what broken ones do.

pypiserver is a child of the process that starts it, on a free loopback port, with its files in a folder of the test's. The broken one
lives in a thread of the test and says what it was asked.
"""

from __future__ import annotations

import base64
import hashlib
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

from blackbox.ports import free_ports

USER, PASSWORD = "robot", "s3cret: 4/2 @home"
"""The login of the servers, with every character that needs quoting."""
START_TIMEOUT_S = 60.0


@dataclass
class PackageIndex:
    """One pypiserver. It is not running until `start`; `close` ends it.

    Args:
        folder: of its wheels and its password file, made when it is missing.
        login: whether it asks for one, to list, download and upload.
    """

    folder: Path
    login: bool = True
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> PackageIndex:
        """Start it and wait until it answers; one that was closed has its port again."""
        self.wheels.mkdir(parents=True, exist_ok=True)
        digest = base64.b64encode(hashlib.sha1(PASSWORD.encode(), usedforsecurity=False).digest()).decode()
        passwords = self.folder / "passwords"
        passwords.write_text(f"{USER}:{{SHA}}{digest}\n")
        self.port = self.port or free_ports(1)[0]
        guarded = ["-P", str(passwords), "-a", "update,download,list"] if self.login else ["-P", ".", "-a", "."]
        # One request after the other, as wsgiref does: of two uploads of one file pypiserver can take both where they overlap.
        command = [
            str(Path(sys.executable).with_name("pypi-server")),
            "run",
            "-i",
            "127.0.0.1",
            "-p",
            str(self.port),
            "--server",
            "wsgiref",
        ]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen([*command, "--disable-fallback", *guarded, str(self.wheels)], stdout=log, stderr=log)
        until = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"pypiserver did not start: {(self.folder / 'server.log').read_text()}")
            time.sleep(0.05)
        return self

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    @property
    def wheels(self) -> Path:
        """The folder of what it serves."""
        return self.folder / "wheels"

    @property
    def bare(self) -> str:
        """The address of its simple pages, without a login."""
        return f"http://127.0.0.1:{self.port}/simple/"

    @property
    def address(self) -> str:
        """The address with the login."""
        return f"http://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/simple/" if self.login else self.bare

    def empty(self) -> None:
        """Remove what it serves."""
        for path in self.wheels.iterdir():
            path.unlink()

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@dataclass
class Answer:
    """What a broken index says to one path: a body cut after `cut` bytes if that is not None, after `wait_s`, or a redirect."""

    body: bytes = b""
    status: int = 200
    content_type: str = "text/html"
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    drip_s: float = 0.0


class BrokenIndex:
    """A server of planted answers by path; 404 for all others. Use it as a context manager.

    Args:
        certificate: a PEM file with certificate and key, for TLS.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str]] = []
        self.lends_to = ""
        """Where askers for other paths are sent to; empty: 404."""
        self.post_status = 405
        """What uploads are answered with."""
        self.on_asked: Callable[[], None] = lambda: None
        self._ended = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._scheme = "https" if certificate else "http"

    @property
    def address(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}/simple/"

    def page(self, package: str, wheel: Path, *, sha256: str = "", served: Answer | None = None) -> None:
        """Offer a wheel on its package's page; with another hash than it has, or other bytes, if so told."""
        told = sha256 or hashlib.sha256(wheel.read_bytes()).hexdigest()
        link = f'<a href="/files/{wheel.name}#sha256={told}">{wheel.name}</a>'
        self.answers[f"/simple/{package}/"] = Answer(f"<!DOCTYPE html><html><body>{link}</body></html>".encode())
        self.answers[f"/files/{wheel.name}"] = served or Answer(wheel.read_bytes(), content_type="application/octet-stream")

    def __enter__(self) -> BrokenIndex:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked.append((self.path, self.headers.get("Authorization", "")))
                index.on_asked()
                elsewhere = {"Location": f"{index.lends_to}{self.path.rsplit('/', 2)[-2]}/"}
                other = Answer(status=302, headers=elsewhere) if index.lends_to else Answer(b"nothing here", 404)
                answer = index.answers.get(self.path, other)
                self.send_response(answer.status)
                for name, value in {"Content-Type": answer.content_type, "Content-Length": str(len(answer.body)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if answer.drip_s:
                    self._drip(answer)
                else:
                    self.wfile.write(answer.body[: answer.cut])

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", "0")))
                self.send_response(index.post_status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _drip(self, answer: Answer) -> None:
                for number in range(len(answer.body)):
                    if index._ended.wait(answer.drip_s):
                        return
                    try:
                        self.wfile.write(answer.body[number : number + 1])
                        self.wfile.flush()
                    except OSError:
                        return  # who asked has gone

            def log_message(self, format: str, *args: object) -> None:
                """Not to standard error: `asked` tells."""

        return Handler


def write_wheel(folder: Path, name: str, version: str, says: str = "hello", requires: tuple[str, ...] = ()) -> Path:
    """A small installable wheel whose one module has SAYS."""
    folder.mkdir(parents=True, exist_ok=True)
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    files = {
        f"{name}.py": f"SAYS = {says!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{each},,\n" for each in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(path, "w") as archive:
        for each, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(zipfile.ZipInfo(each), text)
    return path
