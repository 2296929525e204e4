"""What is wrong with a node now, by the room that says so: shown by its status, and told in the log when it changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from millstream_server.node.logbook import Logbook, entry


class Troubles:
    """Written on the loop. A room that runs on a thread of its own tells through `teller_from_thread`."""

    def __init__(self, logbook: Logbook) -> None:
        self._logbook = logbook
        self._texts: dict[str, str] = {}

    def set(self, room: str, text: str) -> None:
        """Remember what is wrong with a room, "" for nothing. What strikes several is told once as it comes, and once as it goes."""
        before = self._texts.get(room, "")
        if before == text:
            return
        known = set(self._texts.values())
        self._texts[room] = text
        if text and text not in known:
            self._logbook.write(entry("trouble", text, level="warning"))
        elif not text and before not in self._texts.values():
            self._logbook.write(entry("trouble", f"{room} works again"))

    def teller(self, room: str) -> Callable[[str], None]:
        return lambda text: self.set(room, text)

    def teller_from_thread(self, loop: asyncio.AbstractEventLoop, room: str) -> Callable[[str], None]:
        def tell(text: str) -> None:
            loop.call_soon_threadsafe(self.set, room, text)

        return tell

    def rooms(self) -> tuple[str, ...]:
        """Those with a trouble now."""
        return tuple(room for room, text in self._texts.items() if text)

    def texts(self) -> list[str]:
        """What is wrong now, each once; the store and the log first, because most of what else is wrong follows from them."""
        rooms = sorted(self._texts, key=lambda room: room not in ("store", "log"))
        return list(dict.fromkeys(text for room in rooms if (text := self._texts[room])))
