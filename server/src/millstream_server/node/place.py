"""Sees at the start of a node that trains that models can be kept where the settings say; who only serves may only read there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from millstream_server.core.artifacts import Artifacts
from millstream_server.core.errors import Unavailable

AT_ONCE_S = 3.0
"""How long the start waits for the answer: a place that is away must not keep a node from serving what it has copies of."""
AGAIN_S = 5.0


class PlaceCheck:
    """One question to the place of model files, asked until it is answered; lives on the loop.

    Args:
        artifacts: the place.
        tell: is told what is wrong, and "" when it is well.
    """

    def __init__(self, artifacts: Artifacts, tell: Callable[[str], None]) -> None:
        self._artifacts = artifacts
        self._tell = tell

    async def run(self) -> None:
        """Ask until it answers.

        Raises:
            Unavailable: it answers, and models cannot be kept there.
        """
        while True:
            try:
                await asyncio.to_thread(self._artifacts.check)
            except Unavailable as error:
                if error.code != "artifacts_unavailable":
                    raise
                self._tell(str(error))
                await asyncio.sleep(AGAIN_S)
            else:
                self._tell("")
                return
