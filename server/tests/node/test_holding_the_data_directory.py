"""Who holds a data directory, and what a node takes of its machine."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from millstream_server import app
from millstream_server.config import Settings
from millstream_server.core.errors import Unavailable


def test_those_who_ask_for_the_holder_refuse_no_node(tmp_path: Path) -> None:
    """A question takes the lock for a moment; a node that starts in that moment waits instead of ending."""
    settings = Settings(data_dir=tmp_path)
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            app.holder(settings)

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    try:
        for _ in range(30):
            with app.Hold(tmp_path):
                pass
    finally:
        stop.set()
        for thread in asking:
            thread.join()


def test_the_holder_is_named_while_it_holds(tmp_path: Path) -> None:
    """By process id and command, to whoever asks and to a second node; afterwards by nobody."""
    settings = Settings(data_dir=tmp_path)
    with app.Hold(tmp_path):
        holder = app.holder(settings)
        with pytest.raises(Unavailable, match="is held by pid"), app.Hold(tmp_path):
            pass

    assert holder is not None
    assert holder.startswith("pid ")
    assert app.holder(settings) is None


def test_a_worker_may_use_half_of_the_machine_where_no_setting_says_otherwise() -> None:
    """Code that allocates without end must not take the machine down."""
    assert app.worker_memory_bytes(0) == app.machine_memory_bytes() // 2 > 0
    assert app.worker_memory_bytes(300 << 20) == 300 << 20
