"""What is said to somebody who names a release that nobody has published: what is published, and the command that deploys it."""

from __future__ import annotations

from collections.abc import Sequence

from millstream_server.core.errors import CODES, Invalid
from millstream_server.core.index import IndexEntry
from millstream_server.core.routing import near_misses

MOST_NAMED = 8
"""Versions or packages that one message names; the newest versions, since one of those is meant."""


def by_authors(entries: Sequence[IndexEntry]) -> list[IndexEntry]:
    """What authors published; the SDK lies in the index too, for their environments."""
    return [entry for entry in entries if entry.package != "millstream-sdk"]


def version_missing(package: str, entries: Sequence[IndexEntry]) -> Invalid:
    """The error (bad_input) for a package that was named without a version.

    Args:
        package: its normalised name.
        entries: what is in the index, of all packages, newest version last.
    """
    return _refusal("bad_input", f"{package} names no version, expected NAME==VERSION", package, package, entries)


def not_published(package: str, version: str, entries: Sequence[IndexEntry]) -> Invalid:
    """The error (not_published) for a version, or a package, that the index does not have; arguments as of `version_missing`."""
    return _refusal("not_published", f"{package}=={version} is not in the index", f"{package}=={version}", package, entries)


def _refusal(code: str, failed: str, named: str, package: str, entries: Sequence[IndexEntry]) -> Invalid:
    of: dict[str, list[str]] = {}
    for entry in by_authors(entries):
        of.setdefault(entry.package, []).append(entry.version)
    where = f"release {named}"
    if package in of:
        newest = f"millstream deploy {package}=={of[package][-1]}"
        return Invalid(code, f"{failed}; published: {_few(of[package])}", where=where, mend=f"deploy one that is published: {newest}")
    near = near_misses(package, sorted(of))
    if near:
        said = ", ".join(f"{name} ({_few(of[name])})" for name in near)
        mend = f"correct the name: millstream deploy {near[0]}=={of[near[0]][-1]}"
        return Invalid(code, f"{failed}, and no package of this name; near misses: {said}", where=where, mend=mend)
    known = f"published: {', '.join(sorted(of)[:MOST_NAMED])}" if of else "nothing is published"
    return Invalid(code, f"{failed}, and no package of this name; {known}", where=where, mend=CODES["not_published"].mend)


def _few(versions: Sequence[str]) -> str:
    dots = "..., " if len(versions) > MOST_NAMED else ""
    return dots + ", ".join(versions[-MOST_NAMED:])
