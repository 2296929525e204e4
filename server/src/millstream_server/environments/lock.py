"""The lock of a release: which distributions, in which versions, with which hashes, for one Python minor on every platform.

Called by the build. Invariant: a lock names no address, so that it installs from any index, and holds the SDK that came with
this server. Source: `uv help pip compile`; the requirements file format of pip.
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import tomllib
from packaging.markers import Marker

from millstream_server.core.errors import Invalid, Unavailable
from millstream_server.environments.interpreters import Interpreter
from millstream_server.environments.uv import run_uv, told
from millstream_server.environments.wheels import read_info
from millstream_server.shipped import shipped_sdk

SDK = "millstream-sdk"
AUTHORS_LOCKS = ("lock.txt", "requirements.lock")
"""Files of the package's folder whose versions the release's lock keeps to."""

_SYSTEMS = (
    {
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    },
    {
        "os_name": "posix",
        "sys_platform": "darwin",
        "platform_system": "Darwin",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    },
)
_MACHINES = ("x86_64", "aarch64", "arm64", "ppc64le", "s390x")

_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)\s*(?P<rest>[=<>!~;@\[ ].*)?\Z")


def resolve(
    folder: Path, interpreter: Interpreter, index_arguments: Sequence[str], what: str, *, cancel: threading.Event | None = None
) -> str:
    """Resolve the dependencies in `folder/pyproject.toml` together with the SDK, and return the lock's text.

    Raises:
        Invalid: lock_unresolvable, with uv's reason; bad_package, a dependency is named by an address.
        Unavailable: no_uv, install_failed (the index is out of reach, or this server came without the SDK's wheel).
    """
    sdk = shipped_sdk()
    if sdk is None:
        raise Unavailable(
            "install_failed", "this server came without the wheel of millstream-sdk", mend="install it again; in a checkout: make setup"
        )
    with tempfile.TemporaryDirectory(prefix="millstream-lock-") as scratch:
        wanted = Path(scratch) / "sdk.in"
        # By its file: an index that offers the SDK's name, be it with a higher version or with other bytes, is not asked for it.
        wanted.write_text(f"{SDK} @ {sdk.absolute().as_uri()}\n", encoding="utf-8")
        constraints = _constraints(folder, Path(scratch))
        done = run_uv(
            [
                *("pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url"),
                *("--no-sources-package", SDK, "--python", interpreter.path, "--python-version", interpreter.minor),
                *_wheels_only(folder),
                *(*index_arguments, *constraints, folder / "pyproject.toml", wanted),
            ],
            cwd=folder,
            cancel=cancel,
        )
    if done.code != 0:
        raise told(
            done, f"the dependencies of {what} cannot be resolved", otherwise="lock_unresolvable", where=str(folder / "pyproject.toml")
        )
    text = re.sub(rf"^{SDK} @ \S+", f"{SDK}=={read_info(sdk).version}", done.stdout, flags=re.MULTILINE)
    _refuse_addresses(text, what, folder)
    return for_minor(text, interpreter.minor)


def _wheels_only(folder: Path) -> list[str]:
    """Nodes install wheels alone, so a version that has none is never locked, and nothing of a source distribution is ever run.

    A package whose dependencies only its backend knows has to be asked for them, which uv takes for a build as well.
    """
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return []  # the build has read it before, and told
    dynamic = {"dependencies", "optional-dependencies"} & set(project.get("dynamic", []))
    return [] if dynamic else ["--only-binary", ":all:"]


def for_minor(lock: str, minor: str) -> str:
    """Leave out what no platform installs on this Python minor, such as `numpy==2.1.3 ; python_full_version >= '3.13'` on 3.12.

    A release belongs to one minor, so such lines are never used; without them the lock says what the release is made of.
    """
    kept = []
    for entry in re.split(r"\n(?=\S)", lock.strip()):
        if not entry[:1].isalnum():
            continue  # a comment, or an option such as --index-url that the user's settings of uv add: a lock names no address
        requirement = entry.partition("\\\n")[0].strip()
        marker = requirement.partition(";")[2].strip()
        if not marker or _may_hold(Marker(marker), minor):
            kept.append(entry)
    return "".join(f"{entry}\n" for entry in kept)


def _may_hold(marker: Marker, minor: str) -> bool:
    """Whether a marker is true on some platform that nodes run on, with some patch release of the minor."""
    return any(
        marker.evaluate({**system, "platform_machine": machine, "python_version": minor, "python_full_version": f"{minor}.{patch}"})
        for system in _SYSTEMS
        for machine in _MACHINES
        for patch in (*range(40), 99)
    )


def _constraints(folder: Path, scratch: Path) -> list[str | Path]:
    """The author's own lock as constraints, less its hashes and its SDK: the release's SDK is the server's."""
    found = next((folder / name for name in AUTHORS_LOCKS if (folder / name).is_file()), None)
    if found is None:
        return []
    kept = []
    for line in found.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        requirement = re.split(r"\s#|\s--hash", line.strip())[0].strip()
        matched = _REQUIREMENT.match(requirement)
        if matched and matched["name"].lower().replace("_", "-") != SDK:
            kept.append(requirement)
    path = scratch / "constraints.txt"
    path.write_text("".join(f"{each}\n" for each in kept), encoding="utf-8")
    return ["--constraints", path]


def _refuse_addresses(lock: str, what: str, folder: Path) -> None:
    addressed = [line.split(" ")[0] for line in lock.splitlines() if " @ " in line.split(";")[0]]
    if addressed:
        raise Invalid(
            "lock_unresolvable",
            f"{what} depends on {', '.join(addressed)} by address; a lock holds names, versions and hashes, to install from any index",
            where=str(folder / "pyproject.toml"),
            mend="publish it to an index and depend on a version of it",
        )
