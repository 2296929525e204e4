"""The HTTP server that answers Prometheus, in a thread of its own."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable
from socketserver import ThreadingMixIn
from types import TracebackType
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app

from millstream_server.adapters.prometheus.metrics import NodeMetrics
from millstream_server.core.errors import Unavailable
from millstream_server.core.status import Figures

HOST = "127.0.0.1"
STOP_LOOK_S = 0.1
"""How often the server looks whether it is to end: the longest that it holds up the end of its node."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    """Whoever asks while the node ends goes without an answer."""

    def server_bind(self) -> None:
        """Without the look-up of a host name, which can take seconds where no name server answers."""
        socket.socket.bind(self.socket, self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = HOST, self.server_address[1]
        self.setup_environ()


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: a line every few seconds would be noise in the node's log."""


class MetricsEndpoint:
    """Answers `GET /metrics` while the context lasts.

    Args:
        port: of 127.0.0.1.
        figures: asked at each request, from its thread; raises TimeoutError where the node does not answer.

    Raises:
        Unavailable: metrics_port_unusable
    """

    def __init__(self, port: int, figures: Callable[[], Figures]) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(NodeMetrics(figures))
        try:
            self._server = make_server(HOST, port, make_wsgi_app(registry), server_class=_Server, handler_class=_Quiet)
        except OSError as error:
            why = "another program listens there" if error.errno == errno.EADDRINUSE else error.strerror
            raise Unavailable(
                "metrics_port_unusable",
                f"metrics cannot be offered on {HOST}:{port}: {why}",
                where="node.metrics_port",
                mend=f"choose a free port: --metrics-port {_free_port()}",
            ) from None
        self._thread = threading.Thread(target=self._server.serve_forever, args=(STOP_LOOK_S,), name="metrics", daemon=True)

    @property
    def port(self) -> int:
        return self._server.server_port

    def __enter__(self) -> MetricsEndpoint:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _free_port() -> int:
    with socket.socket() as asking:
        asking.bind((HOST, 0))
        return int(asking.getsockname()[1])
