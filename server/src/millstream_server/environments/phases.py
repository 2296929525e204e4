"""The phases of a build or an installation: told as they begin, timed as they end."""

from __future__ import annotations

import time
from collections.abc import Callable

OnPhase = Callable[[str, str], None]
"""Called with the phase that begins now (resolve, download, install, ...) and what it works on, for people; in the caller's thread
of builds, in the installing thread of installations."""


class Phases:
    """Tells each phase once as it begins, and keeps the seconds of each; a phase that is entered again goes on counting."""

    def __init__(self, on_phase: OnPhase | None) -> None:
        self._on_phase = on_phase
        self._name = ""
        self._began = 0.0
        self.seconds: dict[str, float] = {}

    def begin(self, name: str, detail: str = "") -> None:
        """End the phase before and begin this one."""
        if name == self._name:
            return
        self.end()
        self._name, self._began = name, time.monotonic()
        if self._on_phase is not None:
            self._on_phase(name, detail)

    def end(self) -> None:
        """End the phase that runs, if one does."""
        if self._name:
            self.seconds[self._name] = round(self.seconds.get(self._name, 0.0) + time.monotonic() - self._began, 3)
        self._name = ""
