"""A platform whose model files are in a bucket: the store dies, nodes follow what no event told, keys change, and all of it moves."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from millstream_server.adapters.sql import SqlStore
from millstream_server.adapters.sql import models as model_rows
from millstream_server.core.model import ModelState, SignedArtifact
from models_at_work import store_of, weighed
from running_platform import Running, wheel

from blackbox.command import log_lines
from blackbox.postgres import Postgres
from blackbox.processes import workers
from blackbox.s3 import SECRET, S3Gateway
from blackbox.stream import wait_for

pytestmark = pytest.mark.xdist_group("s3 gateway")

GONE_S = 60.0


@pytest.fixture(scope="module")
def gateway() -> Iterator[S3Gateway]:
    with S3Gateway() as gateway:
        yield gateway


@pytest.fixture(scope="module")
def running(gateway: S3Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`millstream up` on a bucket, with one release."""
    settings = {"MILLSTREAM_SHARED_ARTIFACTS": gateway.url("e2e"), "MILLSTREAM_S3_TIMEOUT_S": "1", **gateway.environment}
    running = Running.start(tmp_path_factory.mktemp("s3") / "data", settings)
    assert running.deploy(wheel("1.0.0")).code == 0
    yield running
    counts = running.counts(list(running.acks))
    assert {id: count for id, count in counts.items() if count != 1} == {}
    assert running.close() == 0


def learn(running: Running, *wanted: tuple[str, float]) -> None:
    """Train tenants with factors, each after the one before it."""
    for tenant, factor in wanted:
        name = f"learn-{tenant}-{factor}-{len(running.acks)}"
        running.send([{"id": name, "pipeline": "weigh_learn", "tenant": tenant, "params": {"factor": factor}}])
        answer = running.answers([name])[name]
        assert answer["status"] == "ok", answer


def lines(running: Running, event: str) -> list[dict[str, object]]:
    return log_lines(running.platform.data_dir, event)


def test_a_store_that_dies_costs_no_answer_and_no_model(running: Running, gateway: S3Gateway) -> None:
    """A node that starts meanwhile serves from its copies; who needs another file waits, as a trained model does, until it is back."""
    learn(running, ("kept", 3.0), ("lost", 4.0))
    gateway.kill()
    (copy,) = (running.platform.data_dir / "artifacts-copies" / "lost.scale").iterdir()
    shutil.rmtree(copy)

    running.restart()
    kept = weighed(running, "kept")
    running.send(
        [
            {"id": "lost", "pipeline": "weigh", "tenant": "lost", "params": {"x": 2.0}},
            {"id": "late", "pipeline": "weigh_learn", "tenant": "late", "params": {"factor": 5.0}},
        ]
    )
    wait_for(lambda: lines(running, "seal"), GONE_S, "the trained model waits")
    early = [name for name in ("lost", "late") if running.results[name]]
    gateway.start()
    answers = running.answers(["lost", "late"])

    assert (kept["status"], kept["result"]) == ("ok", 6.0)
    assert early == []
    assert (answers["lost"]["status"], answers["lost"]["result"]) == ("ok", 8.0)
    assert answers["late"]["status"] == "ok"
    assert weighed(running, "late")["result"] == 10.0


def test_no_credential_reaches_a_worker_or_the_log(running: Running) -> None:
    """Pipeline code is an author's; the bucket is the platform's."""
    assert running.node is not None

    environments = [Path(f"/proc/{one.pid}/environ").read_bytes() for one in workers(running.node.pid)]
    written = [path.read_bytes() for path in (running.platform.data_dir / "logs").iterdir()]

    assert environments
    assert not any(b"AWS_" in text or SECRET.encode() in text for text in environments)
    assert not any(SECRET.encode() in text for text in written)


def test_an_event_that_was_lost_is_noticed(running: Running) -> None:
    """The store changed and no topic told: the node sees it by comparing, says so, and serves what the store says."""
    learn(running, ("unheard", 3.0), ("unheard", 4.0))
    with store_of(running) as store:
        state = store.model("unheard", "scale")
        assert state is not None
        back = msgspec.structs.replace(state, revision=state.revision + 1, champion=1, previous=2)

        assert store.database.write(lambda connection: model_rows.save_model(connection, back)) is not None

    running.answers_to(
        "unheard", {"id": "unheard", "pipeline": "weigh", "params": {"x": 2.0}, "tenant": "unheard"}, result=6.0, timeout_s=GONE_S
    )
    assert any("unheard.scale" in str(line["message"]) for line in lines(running, "corrected"))


def _version_folder(running: Running, state: ModelState) -> Path:
    version = state.find(state.champion)
    assert version is not None
    return running.platform.data_dir / "artifacts" / version.location


def _link(folder: Path) -> None:
    (file,) = folder.iterdir()
    file.rename(folder.parent / "elsewhere")
    file.symlink_to(folder.parent / "elsewhere")


def _device(folder: Path) -> None:
    (file,) = folder.iterdir()
    file.unlink()
    if os.geteuid() == 0:
        os.mknod(file, stat.S_IFCHR | 0o444, os.makedev(1, 3))
    else:
        os.mkfifo(file)


def _more(folder: Path) -> None:
    (folder / "sitecustomize.py").write_text("raise SystemExit")


def _less(folder: Path) -> None:
    (file,) = folder.iterdir()
    file.unlink()


def _byte(folder: Path) -> None:
    (file,) = folder.iterdir()
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-1] + b"!")


def _unsigned(signed: SignedArtifact) -> SignedArtifact:
    return msgspec.structs.replace(signed, signature="")


def _stranger(signed: SignedArtifact) -> SignedArtifact:
    return msgspec.structs.replace(signed, key_id="0123456789abcdef")


def _key_as_path(signed: SignedArtifact) -> SignedArtifact:
    return msgspec.structs.replace(signed, key_id="../signing-key")


def _dots(signed: SignedArtifact) -> SignedArtifact:
    return msgspec.structs.replace(signed, manifest=signed.manifest.replace('"model.pkl"', '"../model.pkl"'))


FOLDERS: dict[str, Callable[[Path], None]] = {"link": _link, "device": _device, "more": _more, "less": _less, "byte": _byte}
ARTIFACTS: dict[str, Callable[[SignedArtifact], SignedArtifact]] = {
    "unsigned": _unsigned,
    "stranger": _stranger,
    "key-as-path": _key_as_path,
    "dots": _dots,
}
CODES = {"stranger": "key_unknown", "key-as-path": "key_unknown"}


def test_what_is_no_model_of_ours_never_loads(tmp_path: Path) -> None:
    """A link, a device, a file more or less, a changed byte, no signature, a strange key, a path for a name: the version before serves
    on, and the log names code and reason."""
    running = Running.start(tmp_path / "data")
    assert running.deploy(wheel("1.0.0")).code == 0
    tenants = [*FOLDERS, *ARTIFACTS]
    learn(running, *((tenant, 2.0) for tenant in tenants), *((tenant, 7.0) for tenant in tenants))
    with store_of(running) as store:
        for tenant in tenants:
            _harm(running, store, tenant)
    learn(running, ("last", 1.0))  # its answer is published after all that was written before

    running.restart()
    answers = {tenant: weighed(running, tenant) for tenant in tenants}

    assert {tenant: (one["status"], one["result"], one["model_version"]) for tenant, one in answers.items()} == dict.fromkeys(
        tenants, ("ok", 4.0, 1)
    )
    refused = {str(line["model"]): str(line["message"]).partition(":")[0] for line in lines(running, "model_refused")}
    assert refused == {f"{tenant}.scale": CODES.get(tenant, "model_damaged") for tenant in tenants}
    assert running.close() == 0


def _harm(running: Running, store: SqlStore, tenant: str) -> None:
    state = store.model(tenant, "scale")
    assert state is not None
    if tenant in FOLDERS:
        FOLDERS[tenant](_version_folder(running, state))
        return
    versions = tuple(
        msgspec.structs.replace(version, artifact=ARTIFACTS[tenant](version.artifact)) if version.version == state.champion else version
        for version in state.versions
    )
    assert store.save_model(msgspec.structs.replace(state, revision=state.revision + 1, versions=versions))


def test_a_key_is_exchanged_and_retired_without_a_restart(running: Running) -> None:
    """Old models load on, new ones are signed by the new key; after the old one is retired its models load no more, with the mend."""
    learn(running, ("old", 3.0), ("both", 3.0))
    old = signers(running, "both")[0]

    new = running.say("keys", "rotate").out.strip()
    learn(running, ("both", 4.0))
    back = running.say("models", "promote", "both.scale", "1")
    again = running.say("models", "promote", "both.scale", "2")
    refused = running.say("keys", "retire", old)
    retired = running.say("keys", "retire", old, "--yes")
    running.restart()
    of_old, of_both = weighed(running, "old"), weighed(running, "both")

    assert signers(running, "both") == [old, new]
    assert (back.code, again.code) == (0, 0)
    assert (refused.code, retired.code) == (2, 0)
    assert "old.scale" in retired.err
    assert (of_both["status"], of_both["result"]) == ("ok", 8.0)
    error = of_old["error"]
    assert isinstance(error, dict)
    assert (of_old["status"], error["code"]) == ("failed", "key_retired")
    assert "millstream invoke weigh_learn --tenant old" in error["mend"]
    added = running.say("keys", "add", str(running.platform.data_dir / "signing-key.keys" / f"{old}.retired"))
    running.restart()
    assert added.code == 0
    assert weighed(running, "old")["result"] == 6.0


def signers(running: Running, tenant: str) -> list[str]:
    said = running.platform.ask("models", "show", f"{tenant}.scale", "--json")
    assert isinstance(said, dict)
    return [version["key_id"] for version in said["versions"]]


def test_all_of_it_moves_to_a_shared_store(tmp_path: Path, gateway: S3Gateway) -> None:
    """Releases, models, runs, files and wheels: asked first, refused while the node runs, done once, and then it answers on."""
    running = Running.start(tmp_path / "data")
    assert running.deploy(wheel("1.0.0")).code == 0
    learn(running, ("acme", 3.0), ("acme", 4.0))
    runs = running.platform.ask("runs", "list", "--json")
    with Postgres() as postgres:
        url = postgres.create_database()
        running.platform.settings.update(gateway.environment)
        to = ("copy-store", "--to", url, "--artifacts-to", gateway.url("moved"), "--index-to", str(tmp_path / "index"))

        held = running.say(*to, "--yes")
        assert running.node is not None
        running.node.stop()
        unasked = running.say(*to)
        first, second = running.say(*to, "--yes"), running.say(*to, "--yes")
        assert (first.code, second.code) == (0, 0), (first.err, second.err)
        shared = {"STORE": url, "ARTIFACTS": gateway.url("moved"), "INDEX": str(tmp_path / "index")}
        running.platform.settings.update({f"MILLSTREAM_SHARED_{name}": value for name, value in shared.items()})
        shutil.rmtree(running.platform.data_dir / "artifacts")
        shutil.rmtree(running.platform.data_dir / "environments")
        running.up()
        answer = weighed(running, "acme")
        after = running.platform.ask("runs", "list", "--json")
        learn(running, ("acme", 5.0))
        full = running.say("copy-store", "--store", f"sqlite:///{running.platform.data_dir / 'store.sqlite'}", "--to", url, "--yes")
        assert running.close() == 0

    assert (held.code, unasked.code) == (5, 2)
    assert "model versions: 2 copied, 0 were there" in first.err
    assert "model versions: 0 copied, 2 were there" in second.err
    assert (answer["status"], answer["result"], answer["model_version"]) == ("ok", 8.0, 2)
    assert after == runs
    assert full.code == 5  # its node runs
