"""Questions to the SDK inside an environment, asked in a process of that environment and answered in one line of JSON.

Called by the build (`millstream.manifest`: what pipelines are there) and by the installer (`millstream.worker --probe`: do
the modules import and fit the manifest). The process sees no credential of ours, and writes the bytecode of what it imports.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from millstream_server.core.errors import CODES, Invalid
from millstream_server.environments import tracebacks
from millstream_server.environments.children import Finished, bare_environment, run_child

PROBE_TIMEOUT_S = 300.0
_TRACEBACK_LINES = 15


class _Error(msgspec.Struct):
    code: str = "import_failed"
    message: str = ""
    detail: str = ""
    path: str = ""


class _Answer(msgspec.Struct):
    error: _Error | None = None


def ask(
    python: Path,
    arguments: Sequence[str | Path],
    what: str,
    *,
    root: Path | None = None,
    cancel: threading.Event | None = None,
    timeout_s: float = PROBE_TIMEOUT_S,
    confine: Callable[[list[str]], list[str]] = list,
) -> bytes:
    """Run `python -I ARGUMENTS` and return the JSON line that it printed last.

    Args:
        what: what is imported, for messages, such as `anomaly==1.0.0`.
        root: the folder to which messages tell the author's files relative.
        confine: the command -> the one that is run, with a sandbox around it.

    Raises:
        Invalid: import_failed with the end of the traceback or what ended the process, or the code that the answer names.
        Cancelled: `cancel` was set.
    """
    command = confine([str(python), "-I", *map(str, arguments)])
    ended = run_child(command, environment=bare_environment(), cancel=cancel, timeout_s=timeout_s)
    line = ended.stdout.rstrip().rsplit("\n", 1)[-1].encode()
    try:
        error = msgspec.json.decode(line, type=_Answer).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Invalid("import_failed", f"{what} could not be imported: {_end_of(ended, timeout_s)}", where=str(python)) from None
    if error is not None:
        code = error.code if error.code in CODES else "import_failed"
        if code == "import_failed":
            told = tracebacks.tell(error.message, error.detail, root)
            raise Invalid(code, "\n".join(part for part in (told.sentence, tail(told.traceback)) if part), where=error.path, mend=told.mend)
        message = error.message if root is None else error.message.replace(f"{root}/", "")  # it names file and line by itself
        raise Invalid(code, message, where=error.path)
    if ended.code != 0:
        raise Invalid("import_failed", f"{what} could not be imported: {_end_of(ended, timeout_s)}", where=str(python))
    return line


def tail(text: str) -> str:
    """The last lines of a traceback."""
    return "\n".join(text.rstrip().splitlines()[-_TRACEBACK_LINES:])


def _end_of(ended: Finished, timeout_s: float) -> str:
    if ended.code < 0:
        name = signal.Signals(-ended.code).name
        return f"the process ended by {name} (or did not end within {timeout_s:.0f} s)\n{tail(ended.stderr)}".rstrip()
    return f"the process ended with code {ended.code}\n{tail(ended.stderr)}".rstrip()
