"""Packages whose names hide others: refused where they are built, and again where they are deployed.

Called by the build and by whoever reads a release. A module called `json` would never be imported, since Python's own comes first; one
called `numpy` would overwrite files of numpy in the environment; a package called `millstream-sdk` would stand in for the SDK itself.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from packaging.utils import canonicalize_name

from millstream_server.core.errors import Invalid

OURS = frozenset({"millstream", "millstream-sdk", "millstream-server"})
"""Names of the platform's own distributions."""
OUR_MODULES = frozenset({"millstream", "millstream_server"})


def refuse_name(package: str, where: str) -> None:
    """Refuse a package that bears a name of the platform.

    Raises:
        Invalid: bad_name.
    """
    if package in OURS:
        message = f"a package cannot be called {package}: the platform's own is called so"
        raise Invalid("bad_name", message, where=where, mend="give it another name in [project]")


def refuse_modules(package: str, modules: Iterable[str], where: str) -> None:
    """Refuse a package with a top-level module that has the name of one of Python or of the platform.

    Raises:
        Invalid: bad_package, naming the modules.
    """
    hidden = sorted({*modules} & (sys.stdlib_module_names | OUR_MODULES))
    if hidden:
        whose = "the platform" if hidden[0] in OUR_MODULES else "Python"
        raise Invalid(
            "bad_package",
            f"{package} has the module {', '.join(hidden)}, which is a module of {whose} too: one of them could not be imported",
            where=where,
            mend=f"rename it, as src/{hidden[0]} to src/{package.replace('-', '_')}_{hidden[0]}",
        )


def refuse_overwriting(package: str, modules: Iterable[str], site_packages: Path, where: str) -> None:
    """Refuse a package with a top-level module that one of its dependencies has too.

    Args:
        site_packages: of an environment of the dependencies, without the package.

    Raises:
        Invalid: bad_package, naming the modules.
    """
    taken = {path.name.split(".")[0] for path in site_packages.iterdir() if path.is_dir() or path.suffix in (".py", ".so")}
    hidden = sorted({*modules} & taken)
    if hidden:
        raise Invalid(
            "bad_package",
            f"{package} has the module {', '.join(hidden)}, and so has a distribution that it depends on: one would overwrite the other",
            where=where,
            mend=f"rename it, as src/{hidden[0]} to src/my_{hidden[0]}",
        )


def refuse_own_name(package: str, lock: str, where: str) -> None:
    """Refuse a package whose lock holds a distribution of its own name.

    Raises:
        Invalid: bad_name.
    """
    locked = {canonicalize_name(name) for name in re.findall(r"^([A-Za-z0-9._-]+)==", lock, re.MULTILINE)}
    if package in locked:
        message = f"the package is called {package}, and it depends on another one of this name"
        raise Invalid("bad_name", message, where=where, mend="give it another name in [project]")
