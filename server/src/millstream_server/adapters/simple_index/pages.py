"""Pages of an index, read: which packages it has, and which files of one.

Sources: PEP 503 (HTML), PEP 691 (JSON), packaging.python.org/specifications/simple-repository-api.
"""

from __future__ import annotations

from collections.abc import Iterable
from html.parser import HTMLParser
from typing import TypeVar
from urllib.parse import unquote, urljoin, urlsplit

import msgspec
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"

T = TypeVar("T", bound=msgspec.Struct)

_ENDINGS = (".whl", ".tar.gz", ".zip", ".tar.bz2", ".egg")


class Wheel(msgspec.Struct, frozen=True):
    """One wheel on a page; `hashes` by algorithm, in hex, empty where the index tells none."""

    package: str
    version: Version
    filename: str
    url: str
    hashes: dict[str, str]


class NotAPage(ValueError):
    """What was answered is no page of a package index."""


class _JsonFile(msgspec.Struct):
    filename: str
    url: str
    hashes: dict[str, str] = {}


class _JsonProject(msgspec.Struct):
    files: list[_JsonFile]


class _JsonName(msgspec.Struct):
    name: str


class _JsonRoot(msgspec.Struct):
    projects: list[_JsonName]


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.base = ""
        self.known = False
        self._href: str | None = None
        self._text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag == "a":
            self._href, self._text = said.get("href"), ""
        elif tag == "base":
            self.base = said.get("href") or ""
        elif tag == "meta" and said.get("name") == "pypi:repository-version":
            self.known = True

    def handle_data(self, data: str) -> None:
        self._text += data
        if "links for" in data.lower() or "simple index" in data.lower():
            self.known = True  # the titles of warehouse, devpi and pypiserver: an empty page of an index is one too

    def handle_endtag(self, tag: str) -> None:
        if tag == "a" and self._href is not None:
            self.found.append((self._href, self._text.strip()))
            self._href = None


def wheels_of(package: str, body: bytes, content_type: str, url: str) -> list[Wheel]:
    """The wheels of a package's page; other files, and files of other packages, are left out.

    Args:
        url: where the page was answered, which links on it count from.

    Raises:
        NotAPage: it is a page of something else, such as of a login.
    """
    if _is_json(content_type):
        return _wheels(package, ((urljoin(url, file.url), file.filename, file.hashes) for file in _decoded(body, _JsonProject).files))
    page = _read(body, content_type)
    links = [urljoin(urljoin(url, page.base), href) for href, _ in page.found]
    files = [(link, _last(link)) for link in links if _last(link).endswith(_ENDINGS)]
    if not files and not page.known:
        raise NotAPage("a page that lists no file")
    return _wheels(package, ((link, name, _hashes_of(link)) for link, name in files))


def packages_of(body: bytes, content_type: str) -> list[str]:
    """The normalised names on the index's first page, sorted.

    Raises:
        NotAPage: it is a page of something else.
    """
    if _is_json(content_type):
        names = [project.name for project in _decoded(body, _JsonRoot).projects]
    else:
        page = _read(body, content_type)
        names = [text for _, text in page.found if text]
        if not names and not page.known and body.strip():
            raise NotAPage("a page that lists no package")
    return sorted({str(canonicalize_name(name.strip("/"))) for name in names})


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() in ("application/vnd.pypi.simple.v1+json", "application/json")


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotAPage(f"JSON that is no page: {error}") from None


def _read(body: bytes, content_type: str) -> _Anchors:
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in ("text/html", "application/vnd.pypi.simple.v1+html", ""):
        raise NotAPage(f"an answer of type {kind}")
    page = _Anchors()
    page.feed(body.decode("utf-8", "replace"))
    page.close()
    return page


def _wheels(package: str, files: Iterable[tuple[str, str, dict[str, str]]]) -> list[Wheel]:
    found = []
    for link, filename, hashes in files:
        try:
            name, version, _, _ = parse_wheel_filename(filename)
        except (InvalidWheelFilename, InvalidVersion):
            continue
        # A page that names a file of this machine, or of another protocol, is not to be followed.
        if name == package and "/" not in filename and urlsplit(link).scheme in ("http", "https"):
            found.append(Wheel(str(name), version, filename, link.partition("#")[0], {k.lower(): v.lower() for k, v in hashes.items()}))
    return sorted(found, key=lambda wheel: (wheel.version, wheel.filename))


def _last(link: str) -> str:
    return unquote(urlsplit(link).path.rpartition("/")[2])


def _hashes_of(link: str) -> dict[str, str]:
    algorithm, equals, digest = urlsplit(link).fragment.partition("&")[0].partition("=")
    return {algorithm: digest} if equals and digest else {}
