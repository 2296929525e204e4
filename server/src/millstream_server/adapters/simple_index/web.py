"""What is asked of the index's server: pages and files, with a login, with an end to every wait, and every failure told in our codes.

Python's own client is enough: a page and a wheel a deployment. It honours proxies and `SSL_CERT_FILE`, as uv does.
"""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from typing import IO
from urllib.parse import urlsplit

import msgspec

from millstream_server.adapters.simple_index.login import Login, parted
from millstream_server.core.errors import MillstreamError, Unavailable

SILENCE_S = 15.0
"""Seconds without a byte after which a server is taken for dead."""
PAGE_S = 60.0
FILE_S = 1800.0
LARGEST_PAGE_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 18

LOGIN_MEND = (
    "give the login: MILLSTREAM_INDEX_USERNAME and MILLSTREAM_INDEX_PASSWORD, or a line `machine HOST login NAME password WORD` in ~/.netrc"
)


class Page(msgspec.Struct, frozen=True):
    """A page as it was answered, and by which address after redirects."""

    url: str
    content_type: str
    body: bytes


class _Elsewhere(Exception):
    """The server sent us to another one for a page."""


class _Asked(urllib.request.Request):
    """A request that knows whether only the server itself may answer it."""

    own = False


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects; the login goes along only within the server it belongs to, and pages are the server's own."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise urllib.error.HTTPError(req.full_url, code, msg, headers, fp)
        follow = super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
        if follow is None:
            return None
        same = _origin(req.full_url) == _origin(newurl)
        asked = _Asked(follow.full_url, headers=follow.headers)
        asked.own = isinstance(req, _Asked) and req.own
        if not same and asked.own:
            raise _Elsewhere(newurl)
        login = req.unredirected_hdrs.get("Authorization")
        if same and login:
            asked.add_unredirected_header("Authorization", login)
        return asked


class Web:
    """The server of one index. Any thread may use it; it keeps no connection.

    Args:
        address: of the index, without a login.
        login: of whoever asks.
        silence_s: seconds without a byte after which the server is given up.
        page_s: seconds that a page may take in all.
    """

    def __init__(self, address: str, login: Login | None, *, silence_s: float = SILENCE_S, page_s: float = PAGE_S) -> None:
        self._address = address
        self._login = login
        self._silence_s = silence_s
        self._page_s = page_s
        self._opener = urllib.request.build_opener(_Redirects)

    def page(self, url: str, accept: str) -> Page | None:
        """A page of the index; None where the server has none, or sends us to another server.

        Raises:
            Unavailable: index_refused, index_unavailable.
        """
        try:
            answer = self._open(url, accept, own=True)
        except _Elsewhere:
            return None
        if answer is None:
            return None
        body = b"".join(self._read(answer, url, self._page_s, LARGEST_PAGE_BYTES))
        return Page(answer.geturl(), answer.headers.get("Content-Type", ""), body)

    def sends_elsewhere(self, url: str) -> bool:
        """Whether the server answers for an address of its own by sending us to another server."""
        try:
            answer = self._open(url, "text/html", own=True)
        except _Elsewhere:
            return True
        if answer is not None:
            answer.close()
        return False

    def file(self, url: str) -> Iterator[bytes]:
        """The bytes of a file, in pieces.

        Raises:
            Unavailable: index_refused, index_unavailable; a file that is not there, or breaks off, counts so.
        """
        answer = self._open(url, "*/*", own=False)
        if answer is None:
            raise unavailable(url, "lists this file and has it not (404)")
        yield from self._read(answer, url, FILE_S, None)

    def _open(self, url: str, accept: str, *, own: bool) -> http.client.HTTPResponse | None:
        request = _Asked(url, headers={"Accept": accept, "User-Agent": "millstream"})
        request.own = own
        if self._login is not None and _origin(url) == _origin(self._address):
            request.add_unredirected_header("Authorization", self._login.header)
        try:
            answer = self._opener.open(request, timeout=self._silence_s)
            assert isinstance(answer, http.client.HTTPResponse)
            return answer
        except urllib.error.HTTPError as error:
            with error:
                self._refuse(url, error.code)
            return None
        except _Elsewhere:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise failed(url, error) from None

    def _refuse(self, url: str, status: int) -> None:
        """Raise what an error status means, unless the thing is just not there."""
        if status in (404, 410):
            return
        if status in (401, 403):
            said = f"refused the login of {self._login.username}" if self._login else "asks for a login, and none is given"
            raise refused(url, f"{said} ({status})")
        raise unavailable(url, f"answered {status} {http.client.responses.get(status, '')}".rstrip())

    def _read(self, answer: http.client.HTTPResponse, url: str, most_s: float, most_bytes: int | None) -> Iterator[bytes]:
        until_s, got = time.monotonic() + most_s, 0
        expected = answer.length
        with answer:
            while True:
                try:
                    piece = answer.read1(_CHUNK_BYTES)
                except (OSError, http.client.HTTPException) as error:
                    raise failed(url, error) from None
                got += len(piece)
                if not piece:
                    break
                if most_bytes is not None and got > most_bytes:
                    raise unavailable(url, f"answered a page of more than {most_bytes >> 20} MB")
                if time.monotonic() > until_s:
                    raise unavailable(url, f"had sent {got} bytes after {most_s:g} s, which is too slow")
                yield piece
        if expected is not None and got < expected:
            raise unavailable(url, f"broke off after {got} of {expected} bytes")


def failed(url: str, error: Exception) -> MillstreamError:
    """A connection that failed, in our words."""
    cause = error.reason if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        mend = "let this machine know the certificate's authority: SSL_CERT_FILE=FILE.pem, for the node and for commands"
        return unavailable(url, f"has a certificate that is not trusted here: {cause.verify_message}", mend)
    if isinstance(cause, TimeoutError):
        return unavailable(url, "said nothing for too long")
    if isinstance(cause, ConnectionRefusedError):
        return unavailable(url, "cannot be reached: connection refused")
    return unavailable(url, f"cannot be reached: {getattr(cause, 'strerror', None) or cause or type(cause).__name__}")


def refused(url: str, said: str) -> Unavailable:
    """The error of a login that is missing or wrong."""
    return Unavailable("index_refused", f"the index {_shown(url)} {said}", where=_shown(url), mend=LOGIN_MEND)


def unavailable(url: str, said: str, mend: str = "") -> Unavailable:
    """The error of an index that does not answer as one."""
    return Unavailable("index_unavailable", f"the index {_shown(url)} {said}", where=_shown(url), mend=mend)


def _shown(url: str) -> str:
    return parted(url)[0].partition("#")[0]


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.rpartition("@")[2].lower()
