"""`create_package`: a new package that builds, tests, deploys and answers as it is.

Called by `millstream init`. The files are those in `template/`, with the package's name in the place of `package-name` and its
module's in the place of `packagename`.
"""

from __future__ import annotations

import keyword
import os
import shutil
import sys
import uuid
from pathlib import Path

from packaging.utils import canonicalize_name

from millstream_server.core.errors import Failed, Invalid
from millstream_server.core.names import check_name

_TEMPLATE = Path(__file__).parent / "template"
_SUFFIX = ".in"
"""Of every file there, so that no tool that looks at this project's own code takes them for a part of it."""

_IMPORTED = ("millstream", "msgspec", "numpy", "pytest")


def create_package(folder: Path, name: str) -> list[Path]:
    """Write a package into a folder that is missing or empty.

    Args:
        folder: where it comes to lie, whole or not at all.
        name: of the package; its module has the same name with underscores.

    Returns:
        The files, relative to the folder, sorted.

    Raises:
        Invalid: bad_name, the name fits no package or no Python module; folder_exists.
        Failed: install_failed, the folder cannot be written.
    """
    package, module = names_of(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Invalid("folder_exists", f"{folder} is there and not empty", where=str(folder))
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        written = _write(temporary, package, module)
        os.rename(temporary, folder)  # onto nothing, or onto an empty folder
    except OSError as error:
        raise Failed(
            "install_failed", f"{folder} cannot be written: {error.strerror}", where=str(folder), mend="choose another place"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return sorted(written)


def names_of(name: str) -> tuple[str, str]:
    """The package's name as indexes spell it (PEP 503), and its module's.

    Raises:
        Invalid: bad_name.
    """
    package = check_name("package", canonicalize_name(check_name("package", name)))
    module = package.replace("-", "_")
    reason = _refusal(module)
    if reason:
        raise Invalid("bad_name", f"package {name!r} cannot be used: {reason}", mend=f"millstream init my-{package[:61]}")
    return package, module


def _refusal(module: str) -> str:
    """Why a name can be no module of a package, or nothing."""
    if keyword.iskeyword(module):
        return f"{module} is a word of the Python language, which no module can be named"
    if module in _IMPORTED:
        return f"the package or its tests import another module named {module}, which this one would hide"
    if module in sys.stdlib_module_names:
        return f"Python itself has a module named {module}, which this one would hide"
    if module in ("test", "tests"):
        return f"{module} is what Python and its tools call tests"
    return "" if module.isidentifier() else "its module has the same name, and a Python module begins with a letter"


def _write(target: Path, package: str, module: str) -> list[Path]:
    written = []
    for source in sorted(_TEMPLATE.rglob(f"*{_SUFFIX}")):
        parts = source.relative_to(_TEMPLATE).with_suffix("").parts
        relative = Path(*(part.replace("packagename", module) for part in parts))
        text = source.read_text(encoding="utf-8").replace("package-name", package).replace("packagename", module)
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        (target / relative).write_text(text, encoding="utf-8")
        written.append(relative)
    return written
