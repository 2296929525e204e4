"""Models in the workers of one pool: real processes that speak by hand, so that a loader can fail in one of them alone."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from millstream import wire
from millstream_server.core.batching import Lane
from millstream_server.core.model import ModelVersion, SignedArtifact
from millstream_server.core.release import Manifest, Release
from millstream_server.node import pool as pool_module
from millstream_server.node.model_memory import ModelMemory
from millstream_server.node.pool import Pool, PoolLimits
from millstream_server.node.worker import Batch, Spawn, Worker

KEY, WAIT_S = "acme.scale", 20.0
SPEAKER = """#!{python} -S
import os, pathlib, socket, struct, sys, time
sys.path[:0] = {paths}
import msgspec
pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode
link = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
folder = pathlib.Path({folder!r})
def say(**message):
    link.sendall(struct.pack(">I", len(pack(message))) + pack(message))
def hear():
    return unpack(link.recv(struct.unpack(">I", link.recv(4, socket.MSG_WAITALL))[0], socket.MSG_WAITALL))
def wait_for(name):
    while not (folder / name).exists():
        time.sleep(0.01)
number = 1
while True:
    try:
        (folder / f"process-{{number}}").touch(exist_ok=False)
        break
    except FileExistsError:
        number += 1
say(type="HELLO", wire={wire!r}, sdk="0.2.0", python="3", pid=os.getpid(), package="p", version="1", build_id="b")
wait_for(f"ready-{{number}}")
say(type="READY", seconds=0.0)
while True:
    heard = hear()
    if heard["type"] == "LOAD":
        error = {{"code": "model_load_failed", "message": "no room here"}} if (folder / f"fails-{{number}}").exists() else None
        say(type="LOADED", model=heard["model"], version=heard["version"], seconds=0.0, rss_bytes=1, error=error)
    elif heard["type"] == "EXECUTE":
        wait_for("answer")
        say(type="RESULTS", batch=heard["batch"], outcomes=[["ok", b"1"] for row in heard["rows"]], run_s=0.0)
    elif heard["type"] == "DRAIN":
        say(type="BYE", reason="drained")
        break
"""


def program(folder: Path) -> Path:
    """A worker that counts itself, is ready when `ready-N` is there, and fails to load where `fails-N` is."""
    path = folder / "python"
    paths = [path for path in sys.path if path.endswith("site-packages")]
    path.write_text(SPEAKER.format(python=sys.executable, paths=paths, folder=str(folder), wire=wire.WIRE))
    os.chmod(path, stat.S_IRWXU)
    return path


class Told:
    """What a pool tells its node, by the names of the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[object, ...]]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *given: self.calls.append((name, given[1:]))

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


async def until(condition: Callable[[], bool]) -> None:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < WAIT_S
        await asyncio.sleep(0.01)


def version(number: int) -> ModelVersion:
    return ModelVersion(number, "p", "1", "b", f"r{number}", 1, f"{KEY}/r{number}-1", SignedArtifact("{}", "s", "k"), 1, size_bytes=10)


def pool_of(
    folder: Path,
    told: Told,
    prepare: Callable[[str, ModelVersion], Awaitable[Path]],
    *,
    spares: int = 0,
    may_add_spare: Callable[[], bool] = lambda: True,
) -> Pool:
    """Two workers, which both answer, and spares beside them."""
    manifest = Manifest(1, "p", "1", "b", "3.11", ">=3.10", "0.2.0", wire.WIRE, ("p",), "", "", ())
    limits = PoolLimits(2, spares, 10, 1 << 20, 60.0, 60.0, 0, 1 << 20, 600.0)
    pools: list[Pool] = []
    pools.append(
        Pool(
            Release(manifest, "p.whl", "f" * 64, "CURRENT"),
            program(folder),
            folder,
            limits,
            told,  # type: ignore[arg-type]
            prepare,
            lambda key, number: version(number),
            ModelMemory(1 << 40, lambda: pools),
            asyncio.get_running_loop(),
            may_add_spare=may_add_spare,
        )
    )
    return pools[0]


def test_the_first_spare_waits_until_nothing_is_deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And until the release is called; later ones take the place of one that died at once, whatever is deployed."""
    monkeypatch.setattr(pool_module, "SPARE_AFTER_S", 0.05)
    monkeypatch.setattr(pool_module, "CALLED_S", 0.3)
    deploying = True

    async def lives() -> None:
        async def prepare(key: str, of: ModelVersion) -> Path:
            return tmp_path

        def tick() -> int:
            pool.tick(0)
            return len([worker for worker in pool.workers if not worker.kill_cause])

        nonlocal deploying
        for number in range(1, 6):
            (tmp_path / f"ready-{number}").touch()
        pool = pool_of(tmp_path, Told(), prepare, spares=1, may_add_spare=lambda: not deploying)
        pool.keep_workers()
        await until(lambda: sum(worker.ready for worker in pool.workers) == 2)
        pool._first_work_s = pool.traffic_s = time.monotonic()
        await asyncio.sleep(0.1)
        amid_a_deployment = tick()
        await asyncio.sleep(0.3)
        deploying = False
        called_no_more = tick()
        pool.traffic_s = time.monotonic()
        called_again = tick()
        await until(lambda: sum(worker.ready for worker in pool.workers) == 3)
        deploying = True
        pool.workers[2].kill("the test")
        await until(lambda: len(pool.workers) == 3 and all(not worker.kill_cause for worker in pool.workers))
        pool.traffic_s = time.monotonic() - 1.0
        later = tick()

        assert (amid_a_deployment, called_no_more, called_again, later) == (2, 2, 3, 3)
        await pool.close(5.0)

    asyncio.run(lives())


@pytest.mark.parametrize("where", ["in the worker", "before it"])
def test_what_cannot_be_held_in_reserve_answers_on_where_it_is(tmp_path: Path, where: str) -> None:
    """A second worker is given what the first was asked for, and cannot have it: the version is not given up, nor tried there again."""

    async def lives() -> None:
        told, prepared = Told(), 0

        async def prepare(key: str, of: ModelVersion) -> Path:
            nonlocal prepared
            prepared += 1
            if where == "before it" and prepared == 2:
                raise OSError("the store of models is away")
            return tmp_path

        pool = pool_of(tmp_path, told, prepare)
        pool.keep_workers()
        (tmp_path / "ready-1").touch()
        await until(lambda: pool.has_ready_worker)
        first = next(worker for worker in pool.workers if worker.ready)
        assert pool.preload(KEY, version(1))
        await until(lambda: pool.has_loaded(KEY, 1))
        first.shelf.used((KEY, 1), time.monotonic())

        if where == "in the worker":
            (tmp_path / "fails-2").touch()
        (tmp_path / "ready-2").touch()
        await until(lambda: "model_not_in_reserve" in told.names())
        for _ in range(5):
            pool.preload(KEY, version(1))
            pool.pump()
            await asyncio.sleep(0.02)

        assert "model_unusable" not in told.names()
        assert told.names().count("model_not_in_reserve") == 1
        assert pool.has_loaded(KEY, 1)
        first.kill("the test")  # then nobody has it, and the other one is asked in earnest
        await until(lambda: first not in pool.workers)
        pool.preload(KEY, version(1))
        await until(lambda: bool({"model_unusable", "model_loaded"} & set(told.names()[told.names().index("worker_ended") :])))
        await pool.close(5.0)

    asyncio.run(lives())


def test_files_stay_until_what_was_sent_before_is_answered(tmp_path: Path) -> None:
    """A model may open more of them while it answers; UNLOAD waits behind that batch, and so do they."""

    class Own:
        """Of a worker: notes what is hidden."""

        group, models, kept = None, None, False

        def __init__(self) -> None:
            self.hidden: list[Path] = []

        def hide(self, folder: Path) -> None:
            self.hidden.append(folder)

        def remove(self) -> None:
            """Nothing was made."""

    class Listener(Told):
        """Takes the batch off, as a pool does."""

        def on_results(self, worker: Worker, results: wire.Results) -> None:
            worker.batches.popleft()

    async def lives() -> None:
        (tmp_path / "ready-1").touch()
        listener, own = Listener(), Own()
        spawn = Spawn(program(tmp_path), "p", "1", "b", tmp_path, 1 << 20)
        worker = Worker(spawn, listener, asyncio.get_running_loop())  # type: ignore[arg-type]
        worker.own = own  # type: ignore[assignment]
        worker.load(KEY, 1, tmp_path / "v1", 0)
        worker.batches.append(Batch(7, Lane.__new__(Lane), [], time.monotonic(), 1))
        worker.send(wire.Execute(7, "p", [wire.Row("r", "acme", 1, b"{}")], KEY, 1))
        await until(lambda: "on_loaded" in listener.names())

        worker.unload(KEY, 1)
        await asyncio.sleep(0.1)
        while_it_answers = list(own.hidden)
        (tmp_path / "answer").touch()
        await until(lambda: not worker.batches)
        await until(lambda: bool(own.hidden))

        assert while_it_answers == []
        assert own.hidden == [tmp_path / "v1"]
        worker.drain()
        await until(lambda: "on_exit" in listener.names())

    asyncio.run(lives())
