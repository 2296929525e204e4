"""Places in installed code, told as places in the author's own folder.

Called where an author reads of a failure while the source lies at hand: `weigh/__init__.py:12` of a wheel is `src/weigh/__init__.py:12`
of the folder.
"""

from __future__ import annotations

import re
from pathlib import Path

_PLACE = re.compile(r"\b(?P<file>[\w./-]+\.py)(?P<rest>:\d+|\", line \d+)")
_ROOTS = ("src", "lib", "python")


def in_folder(text: str, folder: Path) -> str:
    """The text with every place that is in the folder told relative to it; others stay as they are."""

    def told(found: re.Match[str]) -> str:
        file = found["file"]
        for root in ("", *_ROOTS):
            if not Path(file).is_absolute() and (folder / root / file).is_file():
                return (f"{root}/{file}" if root else file) + found["rest"]
        return found[0]

    return _PLACE.sub(told, text)
