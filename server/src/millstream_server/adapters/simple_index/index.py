"""`SimpleIndex`: releases on a server of packages, reached by the address of its simple pages."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urljoin

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from millstream_server.adapters.simple_index.login import Login, with_login
from millstream_server.adapters.simple_index.pages import ACCEPT, NotAPage, Wheel, packages_of, wheels_of
from millstream_server.adapters.simple_index.web import LOGIN_MEND, PAGE_S, SILENCE_S, Page, Web, unavailable
from millstream_server.core.errors import Invalid, MillstreamError, Unavailable
from millstream_server.core.index import IndexEntry
from millstream_server.shipped import shipped_sdk

T = TypeVar("T")

MOST_LISTED = 500
"""Packages of an index that are listed; the page of each has to be asked for."""
_AT_ONCE = 8
_KEPT_WHEELS, _KEPT_S = 50, 86_400.0
_STATUS = re.compile(r"status code (\d{3})")
_SAID = re.compile(r"<pre>(.*?)</pre>|Server says:\s*([^<]+)", re.DOTALL)


class Ended(Protocol):
    """How the program that uploads ended."""

    @property
    def code(self) -> int: ...
    @property
    def stderr(self) -> str: ...


Upload = Callable[[Sequence[str | Path], Mapping[str, str]], Ended]
"""Runs uv with arguments and more variables; the login is in those, where no other user of the machine sees it."""


class SimpleIndex:
    """Wheels on a server; any number of processes may publish and read at the same time.

    Args:
        address: of its simple pages, as `https://packages.example/simple/`, without a login.
        login: who we are there.
        cache: folder of wheels that were fetched, made when it is missing.
        upload: runs uv.
        upload_address: where wheels are sent to; empty: the address less its last part `simple` (`+simple` of devpi).
        companions: wheels that `publish` takes in too where they are absent; None means the SDK wheel shipped with the server.
        silence_s: seconds without a byte after which the server is given up.
        page_s: seconds that a page may take in all.
    """

    def __init__(
        self,
        address: str,
        login: Login | None,
        cache: Path,
        upload: Upload,
        *,
        upload_address: str = "",
        companions: Sequence[Path] | None = None,
        silence_s: float = SILENCE_S,
        page_s: float = PAGE_S,
    ) -> None:
        self.address = address.rstrip("/") + "/"
        self.login = login
        self._cache = cache
        self._upload = upload
        self._upload_address = upload_address or re.sub(r"\+?simple/\Z", "", self.address)
        self._companions = companions
        self._web = Web(self.address, login, silence_s=silence_s, page_s=page_s)

    def publish(self, wheel: Path) -> bool:
        """Add a wheel; false when the very same file is there already.

        Raises:
            Invalid: bad_package for a file whose name is no wheel's; bad_input, there is no such file; already_published.
            Unavailable: index_refused, index_unavailable.
        """
        sdk = shipped_sdk() if self._companions is None else None
        companions = self._companions if self._companions is not None else [sdk] if sdk is not None else []
        _parsed(wheel)
        for companion in companions:
            self._add(companion)
        return self._add(wheel)

    def entries(self, package: str = "") -> list[IndexEntry]:
        """What is published, of one package or all, by package and version, newest version last.

        Of an index with more than `MOST_LISTED` packages, such as a mirror of PyPI, nothing is listed unless a package is named. The
        hash is empty where the server does not tell a SHA-256.

        Raises:
            Unavailable: index_refused, index_unavailable.
        """
        if package:
            return [_entry(wheel) for wheel in self._wheels(str(canonicalize_name(package)))]
        names = self.packages()
        if len(names) > MOST_LISTED:
            return []
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return [_entry(wheel) for found in pool.map(self._wheels, names) for wheel in found]

    def packages(self) -> list[str]:
        """The names of all packages that the server lists.

        Raises:
            Unavailable: index_refused, index_unavailable.
        """
        page = self._web.page(self.address, ACCEPT)
        if page is None:
            raise unavailable(self.address, "has no page there (404); expected the address of its simple pages, as https://HOST/simple/")
        return self._read(page, lambda: packages_of(page.body, page.content_type))

    def answers_for_others(self) -> bool:
        """Whether the server gives an answer for a package that nobody has, by sending the asker to another index.

        Raises:
            Unavailable: index_refused, index_unavailable.
        """
        return self._web.sends_elsewhere(urljoin(self.address, f"no-such-package-{uuid.uuid4().hex[:12]}/"))

    def fetch(self, package: str, version: str) -> tuple[Path, IndexEntry]:
        """Return a local copy of the release's wheel, its hash checked.

        Raises:
            Invalid: not_published (naming the versions that are), hash_mismatch.
            Unavailable: index_refused, index_unavailable, no_space.
        """
        name = str(canonicalize_name(package))
        there = self._wheels(name)
        wheel = next((each for each in there if _same(each.version, version)), None)
        if wheel is None:
            versions = ", ".join(str(each.version) for each in there) or "no version"
            raise Invalid("not_published", f"the index has no {package}=={version}, it has {versions} of {package}", where=self.address)
        path, sha256 = self._local(wheel)
        return path, IndexEntry(wheel.package, str(wheel.version), wheel.filename, sha256)

    def install_arguments(self) -> Sequence[str]:
        """`--index` with address and login: this index before all others. `run_uv` hides it from the list of processes."""
        return ["--index", with_login(self.address, self.login)]

    # --- publishing -------------------------------------------------------------------------------------------------------

    def _add(self, path: Path) -> bool:
        name, version = _parsed(path)
        sha256 = _sha256(path)
        if self._has(name, version, path.name, sha256):
            return False
        ended = self._send(path, name, version)
        if ended.code == 0 and ", skipping" not in ended.stderr:
            return True
        # Servers refuse a version that is there in words of their own: 409 pypiserver and devpi, 400 Nexus and GitLab, 403 Artifactory.
        if self._has(name, version, path.name, sha256):
            return False
        raise self._refusal(f"{name}=={version}", ended.stderr)

    def _send(self, path: Path, name: str, version: Version) -> Ended:
        """Upload a wheel, under the one spelling of its name that uv takes: any other it skips, without an error."""
        login = {"UV_PUBLISH_USERNAME": self.login.username, "UV_PUBLISH_PASSWORD": self.login.password} if self.login else {}
        with tempfile.TemporaryDirectory(prefix="millstream-publish-") as scratch:
            link = Path(scratch) / "-".join([name.replace("-", "_"), str(version), *path.name.split("-")[2:]])
            link.symlink_to(path.absolute())
            return self._upload(["publish", "--trusted-publishing", "never", "--publish-url", self._upload_address, link], login)

    def _has(self, name: str, version: Version, filename: str, sha256: str) -> bool:
        """Whether the very same file is there.

        Raises:
            Invalid: already_published, another one is.
        """
        for wheel in self._wheels(name):
            if not _same(wheel.version, str(version)):
                continue
            found = wheel.hashes.get("sha256") or self._local(wheel)[1]
            if found == sha256 and parse_wheel_filename(wheel.filename) == parse_wheel_filename(filename):
                return True
            raise Invalid(
                "already_published",
                f"{name}=={version} is published as {wheel.filename} with SHA-256 {found}; {filename} has {sha256}",
                where=self.address,
            )
        return False

    def _refusal(self, label: str, said: str) -> MillstreamError:
        status = int(found[1]) if (found := _STATUS.search(said)) else 0
        words = next((" ".join((one or two).split()) for one, two in _SAID.findall(said) if (one or two).strip() not in ("", "None")), "")
        told = f"the index {self._upload_address} did not take {label}"
        if status in (401, 403) or "Missing credentials" in said:
            who = f"the login of {self.login.username}" if self.login else "no login was given"
            return Unavailable("index_refused", f"{told}: {who} ({status or 401})", where=self._upload_address, mend=LOGIN_MEND)
        flat = " ".join(said.split())  # uv breaks its lines where an address happens to end
        if status in (404, 405) or "are you using the simple index URL" in flat or "POST requests are not supported" in flat:
            mend = "name the address that takes uploads: shared.index_upload (MILLSTREAM_SHARED_INDEX_UPLOAD)"
            return Unavailable("index_unavailable", f"{told}: it takes no uploads there", where=self._upload_address, mend=mend)
        causes = [line.strip().removeprefix("cause: ") for line in said.splitlines() if line.strip().startswith("cause: ")]
        reason = f"{status} {words}" if status else (causes[-1] if causes else said.strip()[-300:])
        return Unavailable("index_unavailable", f"{told}: {reason.strip()}", where=self._upload_address)

    # --- reading ----------------------------------------------------------------------------------------------------------

    def _wheels(self, name: str) -> list[Wheel]:
        page = self._web.page(urljoin(self.address, f"{name}/"), ACCEPT)
        if page is None:
            return []
        return self._read(page, lambda: wheels_of(name, page.body, page.content_type, page.url))

    def _read(self, page: Page, reading: Callable[[], list[T]]) -> list[T]:
        try:
            return reading()
        except NotAPage as error:
            mend = "see with a browser what stands there; expected the address of simple pages (PEP 503), as https://HOST/simple/"
            raise unavailable(page.url, f"answered {error}, which is no page of a package index", mend) from None

    def _local(self, wheel: Wheel) -> tuple[Path, str]:
        """A local copy of a wheel, and its SHA-256.

        Raises:
            Invalid: hash_mismatch. Unavailable: index_refused, index_unavailable, no_space.
        """
        expected = wheel.hashes.get("sha256", "")
        kept = self._cache / expected / wheel.filename
        if expected and kept.is_file() and _sha256(kept) == expected:
            with contextlib.suppress(OSError):
                os.utime(kept.parent)
            return kept, expected
        try:
            return self._download(wheel)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise Unavailable("no_space", f"no space left for {wheel.filename} in {self._cache}", where=str(self._cache)) from None
            raise Unavailable(
                "data_dir_unusable", f"{wheel.filename} cannot be kept in {self._cache}: {error.strerror}", where=str(self._cache)
            ) from None

    def _download(self, wheel: Wheel) -> tuple[Path, str]:
        self._cache.mkdir(parents=True, exist_ok=True)
        temporary = self._cache / f".tmp-{uuid.uuid4().hex}"
        algorithms = {"sha256", *wheel.hashes} & hashlib.algorithms_guaranteed
        digests = {name: hashlib.new(name) for name in algorithms if not name.startswith("shake")}
        try:
            with temporary.open("wb") as file:
                for piece in self._web.file(wheel.url):
                    file.write(piece)
                    for digest in digests.values():
                        digest.update(piece)
            for name, digest in digests.items():
                if wheel.hashes.get(name, digest.hexdigest()) != digest.hexdigest():
                    raise Invalid(
                        "hash_mismatch",
                        f"{wheel.filename} as served has {name} {digest.hexdigest()}, but the index's page says {wheel.hashes[name]}",
                        where=wheel.url,
                        mend="have the index's keeper restore the file that was published; nothing of this one was used",
                    )
            sha256 = digests["sha256"].hexdigest()
            kept = self._cache / sha256 / wheel.filename
            kept.parent.mkdir(exist_ok=True)
            os.replace(temporary, kept)
        finally:
            temporary.unlink(missing_ok=True)
        self._forget_unused()
        return kept, sha256

    def _forget_unused(self) -> None:
        """Keep the wheels that were fetched last; one of the last day may be in use."""
        with contextlib.suppress(OSError):  # another process does the same
            by_use = sorted(((path.stat().st_mtime, path) for path in self._cache.iterdir()), reverse=True)
            for used_s, path in by_use[_KEPT_WHEELS:]:
                if time.time() - used_s > _KEPT_S:
                    for file in path.iterdir() if path.is_dir() else ():
                        file.unlink(missing_ok=True)
                    path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


def _entry(wheel: Wheel) -> IndexEntry:
    return IndexEntry(wheel.package, str(wheel.version), wheel.filename, wheel.hashes.get("sha256", ""))


def _parsed(path: Path) -> tuple[str, Version]:
    try:
        name, version, _, _ = parse_wheel_filename(path.name)
    except (InvalidWheelFilename, InvalidVersion):
        raise Invalid("bad_package", f"{path.name} is not the name of a wheel (NAME-VERSION-TAGS.whl)", where=str(path)) from None
    return str(name), version


def _same(version: Version, spelled: str) -> bool:
    try:
        return version == Version(spelled)
    except InvalidVersion:
        return False


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise Invalid("bad_input", f"there is no wheel {path}", where=str(path), mend="build it: millstream build") from None
