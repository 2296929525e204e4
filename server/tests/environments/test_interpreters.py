"""Which Pythons are here, and which of them a release gets."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from millstream_server.core.errors import Invalid, Unavailable
from millstream_server.environments import interpreters

OWN = f"{sys.version_info.major}.{sys.version_info.minor}"


def test_the_platforms_own_python_is_taken_where_it_fits() -> None:
    """The environment's base is the interpreter under the platform's own environment, not that environment."""
    found = interpreters.find(f">={OWN}")

    assert found.minor == OWN
    assert found.version == ".".join(map(str, sys.version_info[:3]))
    assert Path(found.path).is_absolute()
    assert not found.path.startswith(sys.prefix + os.sep) or sys.prefix == sys.base_prefix


def test_no_wish_means_the_platforms_own() -> None:
    """A package without requires-python runs on the Python that builds it."""
    assert interpreters.find("").minor == OWN


def test_a_minor_is_met_by_that_minor_alone() -> None:
    """A release was locked for one minor; a newer one does not stand in."""
    with pytest.raises(Unavailable) as refused:
        interpreters.find(">=3.10", "3.99", wanted_by="shop==1.0.0")

    assert refused.value.code == "no_interpreter"
    assert "shop==1.0.0 wants Python 3.99 (requires-python >=3.10)" in refused.value.message
    assert OWN in refused.value.message
    assert "MILLSTREAM_PYTHONS=/path/to/python3.99" in refused.value.mend


def test_what_is_no_version_specifier_is_refused() -> None:
    """A typing mistake in requires-python is the author's to mend."""
    with pytest.raises(Invalid) as refused:
        interpreters.find("3.11 or newer")

    assert refused.value.code == "bad_package"


def test_each_version_is_listed_once_and_the_own_first() -> None:
    """One interpreter has many names on PATH."""
    found = interpreters.installed()

    assert found[0].minor == OWN
    assert len({each.version for each in found}) == len(found)


def test_programs_that_are_no_python_are_passed_over(tmp_path: Path) -> None:
    """A shim that fails, a script and a missing file are no interpreters, and none of them raises."""
    failing, talking = tmp_path / "python3.11", tmp_path / "python3"
    failing.write_text("#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n")
    talking.write_text("#!/bin/sh\necho 'hello to you'\n")
    for path in (failing, talking):
        path.chmod(0o755)

    assert [interpreters.identify(path) for path in (failing, talking, tmp_path / "missing", tmp_path)] == [None] * 4


def test_a_named_interpreter_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MILLSTREAM_PYTHONS names interpreters that lie where nobody looks."""
    claimed = tmp_path / "odd" / "place"
    claimed.parent.mkdir()
    claimed.write_text(f"#!/bin/sh\necho cpython 3.98.1 - {claimed}\n")
    claimed.chmod(0o755)
    monkeypatch.setenv("MILLSTREAM_PYTHONS", f"{tmp_path / 'missing'}:{claimed}")

    assert interpreters.find(">=3.98").path == str(claimed)
    assert interpreters.find("", "3.98").version == "3.98.1"


def test_a_free_threaded_build_is_passed_over(tmp_path: Path) -> None:
    """Its wheels are others than those that the lock was made for."""
    claimed = tmp_path / "python3.13"
    claimed.write_text("#!/bin/sh\necho cpython 3.13.1 t /usr/bin/python3.13t\n")
    claimed.chmod(0o755)

    assert interpreters.identify(claimed) is None


def test_an_interpreter_is_asked_anew_after_it_changed(tmp_path: Path) -> None:
    """What was found out holds for one state of the file."""
    path = tmp_path / "python3"
    path.write_text("#!/bin/sh\nexit 1\n")
    path.chmod(0o755)
    assert interpreters.identify(path) is None

    path.write_text(f"#!/bin/sh\necho cpython 3.97.0 - {path}\n")
    os.utime(path, ns=(1, 1))

    found = interpreters.identify(path)
    assert found is not None
    assert found.minor == "3.97"
