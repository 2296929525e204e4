"""Tracebacks of authors' modules in authors' terms: without the frames that only import them, and with the step that mends the case.

Called by `probe` for what the SDK says of an import that failed. The texts are Python's own, of any version that a release runs on; what
is not understood is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

_FRAME = re.compile(r'  File "(?P<file>[^"]+)", line (?P<line>\d+)')
_INSTALLED = re.compile(r'  File "[^"\n]*/site-packages/')
"""An environment's own folder: of one that is being made, and removed when this is told, its name says nothing to anybody."""
_PLACE = re.compile(r", at [^\n:]+:\d+ in [^\n]+\Z")
_MISSING = re.compile(r"\bModuleNotFoundError: No module named '(?P<module>[^']+)'")
_MODULE = re.compile(r"module (?P<module>[\w.]+) cannot be imported: ")
_DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
}
"""Distributions that are not named like the module that people import of them."""


class Told(msgspec.Struct, frozen=True):
    """A failed import: one sentence that ends in the author's own line, the traceback, and what mends it (empty: nothing special)."""

    sentence: str
    traceback: str
    mend: str = ""


def tell(sentence: str, traceback: str, root: Path | None = None) -> Told:
    """Put a failed import into the author's terms.

    Args:
        sentence: the SDK's, `module a.b cannot be imported: ...`.
        traceback: Python's text.
        root: files below it are told relative to it, as those that are installed are to their environment; others by their whole path.
    """
    if root is not None:
        traceback = traceback.replace(f"{root}/", "")
    traceback = _INSTALLED.sub('  File "', traceback)
    shown = "\n".join(line for frame in _frames(traceback) if not _only_imports(frame[0]) for line in frame)
    found = _MODULE.match(sentence)
    own = found["module"].partition(".")[0] if found else ""
    places = [(match["file"], match["line"]) for match in _FRAME.finditer(shown)]
    ours = [place for place in places if f"/{own}/" in f"/{place[0]}" or f"/{place[0]}".endswith(f"/{own}.py")] or places
    if ours:
        file, line = ours[-1]
        sentence = _PLACE.sub("", sentence) + f", at {file}:{line}"
    elif traceback:
        sentence = _PLACE.sub("", sentence)  # a place within Python's own import says nothing
    return Told(sentence, shown, _mend(sentence, own))


def _frames(traceback: str) -> Iterator[list[str]]:
    """The lines of a traceback, parted into frames (each with its source below it) and everything else, a line each."""
    frame: list[str] = []
    for line in traceback.splitlines():
        if frame and line.startswith("    "):
            frame.append(line)
            continue
        if frame:
            yield frame
        frame = [line] if _FRAME.match(line) else []
        if not frame:
            yield [line]
    if frame:
        yield frame


def _only_imports(line: str) -> bool:
    found = _FRAME.match(line)
    return found is not None and (found["file"].startswith("<frozen importlib") or found["file"].endswith("/importlib/__init__.py"))


def _mend(sentence: str, own: str) -> str:
    missing = _MISSING.search(sentence)
    if missing is None:
        return ""
    top = missing["module"].partition(".")[0]
    if sentence.startswith(f"module {missing['module']} cannot"):
        return f"name a module of the package under [tool.millstream] modules in pyproject.toml, in the place of {missing['module']}"
    if top == own:
        return f"correct the import: the package's wheel holds no module {missing['module']}; then build again"
    distribution = _DISTRIBUTIONS.get(top, top)
    spoken = distribution if distribution == top else f"{distribution}, which holds {top},"
    return f"add {spoken} to dependencies in pyproject.toml, or correct the import; then build again"
