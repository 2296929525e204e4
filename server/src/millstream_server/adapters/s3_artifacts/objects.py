"""Objects below one prefix of a bucket: every call ends in bounded time, and each failure is one of ours.

`obstore` (the object store of Apache Arrow, in Rust) signs, retries and sends; it finds credentials as AWS's own tools do: in AWS_*
variables, a web identity, or the machine's role.
"""

from __future__ import annotations

import secrets
import shlex
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from millstream_server.core.errors import Failed, Invalid, MillstreamError, Unavailable

if TYPE_CHECKING:
    from obstore.store import S3Store

PART_BYTES = 8 * 1024 * 1024
"""What one call carries at most, so that its time limit means the same for a small file and a large one."""
TRIES = 3
DOWN_S = 3.0
"""How long a store that did not answer is not asked again: whoever needs it is told at once, and keeps no thread waiting."""


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """How a store is reached; what is empty is found as AWS's own tools find it."""

    endpoint: str = ""
    region: str = ""
    access_key_id: str = ""
    secret_access_key: str = ""
    session_token: str = ""
    timeout_s: float = 10.0


class Objects:
    """The objects of `s3://BUCKET/PREFIX`; methods may be called from any thread.

    Raises:
        Invalid: bad_config, the address cannot be used.
        Unavailable: artifacts_unusable, the library is not installed.
    """

    def __init__(self, url: str, access: Access) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = access.timeout_s
        self._store = _open(self.url, access)
        self._lock = threading.Lock()
        self._down_until_s = 0.0
        self._down_because = ""

    def read(self, name: str, most_bytes: int) -> bytes | None:
        """A small object; None where there is none.

        Raises:
            Failed: model_damaged, it is larger than `most_bytes`.
            Unavailable
        """
        import obstore

        try:
            with self._asking("read", name):
                found = obstore.get(self._store, name)
                size_bytes = found.meta["size"]
                content = bytes(found.bytes()) if size_bytes <= most_bytes else b""
        except FileNotFoundError:
            return None
        if size_bytes > most_bytes:
            raise Failed("model_damaged", f"{self.place(name)} has {size_bytes} bytes, expected {most_bytes} at most", where=name)
        return content

    def parts(self, name: str, size_bytes: int) -> Iterator[bytes]:
        """The content of an object of a known size, part by part.

        Raises:
            FileNotFoundError: there is none.
            Unavailable
        """
        import obstore

        for start in range(0, size_bytes, PART_BYTES):
            with self._asking("read", name):
                part = bytes(obstore.get_range(self._store, name, start=start, end=min(size_bytes, start + PART_BYTES)))
            yield part

    def create(self, name: str, content: bytes) -> bool:
        """Write an object where there is none; false where there is one, which may be this one, written by a try whose answer was lost."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            with self._asking("write", name):
                obstore.put(self._store, name, content, mode="create")
        except (AlreadyExistsError, PreconditionError):
            return False
        except FileNotFoundError as error:
            raise self._no_bucket(error) from error
        return True

    def upload(self, name: str, file: Path) -> None:
        """Write a file's content to an object whose name says what it holds, so that writing it twice changes nothing."""
        import obstore

        if file.stat().st_size <= PART_BYTES:
            self.create(name, file.read_bytes())
            return
        with self._asking("write", name):
            obstore.put(self._store, name, file, use_multipart=True, chunk_size=PART_BYTES, max_concurrency=4)

    def list(self, prefix: str) -> list[tuple[str, int]]:
        """Name and bytes of every object below a prefix."""
        import obstore

        with self._asking("list", prefix):
            return [(str(meta["path"]), int(meta["size"])) for chunk in obstore.list(self._store, prefix) for meta in chunk]

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; one that is not there is no error."""
        import obstore

        for name in names:
            with self._asking("remove", name):
                try:
                    obstore.delete(self._store, name)
                except FileNotFoundError:
                    continue  # a store that says so of what is gone already

    def probe(self) -> None:
        """See that an object is written once only where that is asked for: all of sealing stands on it.

        Raises:
            Unavailable: artifacts_unusable, the store ignores conditional writes, or refuses us; artifacts_unavailable.
        """
        name = f".probe/{secrets.token_hex(8)}"
        self.create(name, b"first")
        try:
            written_twice = self.create(name, b"second")
        finally:
            self.delete([name])
        if written_twice:
            raise Unavailable(
                "artifacts_unusable",
                f"{self.url} ignores conditional writes (If-None-Match: *): two nodes could seal one model's place",
                where=self.url,
                mend="use a store that keeps them (AWS, Ceph, SeaweedFS, versitygw, ...), or a shared folder: --artifacts FOLDER",
            )

    def place(self, name: str) -> str:
        return f"{self.url}/{name}"

    def _no_bucket(self, error: FileNotFoundError) -> Unavailable:
        bucket = self.url.removeprefix("s3://").partition("/")[0]
        return Unavailable(
            "artifacts_unusable",
            f"{self.url} cannot be written: {_first_line(error)}",
            where=self.url,
            mend=f"make the bucket, or correct its name: aws s3 mb s3://{shlex.quote(bucket)}",
        )

    @contextmanager
    def _asking(self, what: str, name: str) -> Iterator[None]:
        """One call. Its failure is translated; after one that was the store's nobody asks for a moment, and then one alone does."""
        from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, PreconditionError, UnauthenticatedError

        self._admit()
        try:
            yield
        except (AlreadyExistsError, PreconditionError, FileNotFoundError, MillstreamError):
            self._answered()
            raise
        except (PermissionDeniedError, UnauthenticatedError) as error:
            self._answered()
            raise Unavailable(
                "artifacts_unusable",
                f"cannot {what} {self.place(name)}: {_first_line(error)}",
                where=self.url,
                mend="give this process the right credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or s3.access_key_id and "
                "s3.secret_access_key) and let them read, write, list and delete there",
            ) from error
        except (BaseError, OSError) as error:
            # Also what is no OSError of ours: the library reports through them that the store is away, slow, or answers garbage.
            raise self._failed(f"cannot {what} {self.place(name)}: {_first_line(error)}") from error
        self._answered()

    def _admit(self) -> None:
        with self._lock:
            now_s = time.monotonic()
            if now_s < self._down_until_s:
                raise Unavailable("artifacts_unavailable", self._down_because, where=self.url)
            if self._down_because:
                self._down_until_s = now_s + self._timeout_s * TRIES  # this call is the one that asks; the others are told at once

    def _answered(self) -> None:
        with self._lock:
            self._down_until_s, self._down_because = 0.0, ""

    def _failed(self, why: str) -> Unavailable:
        with self._lock:
            self._down_until_s, self._down_because = time.monotonic() + DOWN_S, why
        mend = "give this process credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" if "169.254.169.254" in why else ""
        return Unavailable("artifacts_unavailable", why, where=self.url, mend=mend)


def _open(url: str, access: Access) -> S3Store:
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise Unavailable(
            "artifacts_unusable", f"{url} needs the package obstore: {error}", where=url, mend="pip install 'millstream-server[s3]'"
        ) from error
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc or ":" in parts.netloc:
        raise Invalid("bad_config", f"the artifacts' address {url!r} cannot be used, expected s3://BUCKET/PREFIX")
    said = {
        "endpoint": access.endpoint,
        "region": access.region,
        "access_key_id": access.access_key_id,
        "secret_access_key": access.secret_access_key,
        "session_token": access.session_token,
    }
    limit = timedelta(seconds=access.timeout_s)
    try:
        return S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            # One by one: not every store takes a list of what to delete, and a model has few files.
            config={name: value for name, value in said.items() if value} | {"disable_bulk_delete": True},  # type: ignore[arg-type]
            client_options={"timeout": limit, "connect_timeout": min(limit, timedelta(seconds=5)), "allow_http": True},
            retry_config={
                "max_retries": TRIES - 1,
                "retry_timeout": limit * TRIES,
                "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=1), "base": 2},
            },
        )
    except Exception as error:  # the library's own, of several kinds, for a value that it cannot use
        raise Invalid("bad_config", f"the artifacts' address {url} cannot be used: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    """What the library says to a reader; its further lines are for its authors."""
    return str(error).partition("\n")[0].strip()[:300]
