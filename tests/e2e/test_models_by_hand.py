"""Models that people change while requests come in: promoted, rolled back, pinned and deleted, and what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from millstream_server.core.models_by_hand import delete_version, promote
from millstream_server.core.release import PackageState
from models_at_work import (
    Stream,
    files_of,
    latencies_ms,
    loads,
    numbers,
    on_terminal,
    shown,
    state_of,
    store_of,
    trained,
    weighed,
    worker_states,
)
from running_platform import Running, command_in, environments, statuses, wheel

from blackbox.stream import wait_for

pytestmark = pytest.mark.xdist_group("models by hand")

GONE_S = 30.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`millstream up` with two releases of `weigh`: 1.0.0 trained v1 of acme.scale (factor 3), 2.0.0 v2 and v3 (4 and 5)."""
    running = Running.start(tmp_path_factory.mktemp("by-hand") / "data")
    assert running.deploy(wheel("1.0.0")).code == 0
    running.train("acme", 3.0)
    assert running.deploy(wheel("2.0.0")).code == 0
    running.train("acme", 4.0)
    running.train("acme", 5.0)
    yield running
    counts = running.counts(list(running.acks))
    assert {id: count for id, count in counts.items() if count != 1} == {}
    assert running.close() == 0


def test_rollbacks_under_requests_fail_nobody(running: Running) -> None:
    """Back, forward, and to the oldest version and its release: every request has one answer, by a version that was champion then."""
    with Stream(running, "acme") as stream:
        wait_for(lambda: len(stream.ids) > 20, GONE_S, "requests come in")
        back = running.say("models", "rollback", "acme.scale")
        on_two = weighed(running, "acme")
        forward = running.say("models", "rollback", "acme.scale")
        on_three = weighed(running, "acme")
        oldest = running.say("models", "promote", "acme.scale", "1")
        on_one = weighed(running, "acme")
    answers = stream.answers()

    assert [said.code for said in (back, forward, oldest)] == [0, 0, 0], (back.err, forward.err, oldest.err)
    assert [one["result"] for one in (on_two, on_three, on_one)] == [8.0, 10.0, 6.0]
    assert on_one["release"] == "weigh==1.0.0"
    assert {one["status"] for one in answers} == {"ok"}
    assert {one["result"] for one in answers} == {6.0, 8.0, 10.0}
    assert numbers(running, "acme.scale") == (1, 3, [])
    assert "acme.scale v2 is the champion; v3 answers until it is loaded" in back.err
    assert "acme.scale v2 answers after" in back.err


def test_a_champion_can_be_promoted_to_and_fro_at_once(running: Running) -> None:
    """Changes that overtake each other while versions load: what is champion in the end answers, and nobody failed."""
    trained(running, "hasty", 3.0, 4.0, 5.0)

    with Stream(running, "hasty") as stream:
        for version in ("2", "1", "3", "1", "3", "2", "1", "2"):
            assert running.say("models", "promote", "hasty.scale", version, "--no-wait").code == 0
        assert running.say("models", "promote", "hasty.scale", "2").code == 0
        last = weighed(running, "hasty")
    answers = stream.answers()

    assert last["result"] == 8.0
    assert {one["status"] for one in answers} == {"ok"}


def test_nobody_waits_for_a_model_that_is_loaded_while_another_worker_can_answer(running: Running) -> None:
    """It takes 1.5 s in either worker of the release; meanwhile its tenant and another are answered as ever, by the version before."""
    assert running.deploy(wheel("2.1.0")).code == 0
    trained(running, "other", 3.0)
    trained(running, "calm", 3.0)
    with Stream(running, "calm") as stream, Stream(running, "other") as beside:
        wait_for(lambda: "spare" in worker_states(running, "2.1.0"), GONE_S, "a spare worker")
        running.train("calm", 4.0, loading="slow")
        wait_for(lambda: loads(running, "calm.scale", 2) == 2, GONE_S, "v2 in both workers")
    answers = stream.answers()
    answered = [*stream.ids, *beside.ids] if beside.answers() else []
    waited_ms = latencies_ms(running, answered)

    assert {one["status"] for one in answers} == {"ok"}
    assert (answers[0]["result"], answers[-1]["result"]) == (6.0, 8.0)
    assert max(waited_ms) < 1_000, sorted(waited_ms)[-20:]


def test_a_promotion_that_was_overtaken_does_not_take_over_later(running: Running) -> None:
    """Its version is still being loaded when the one that answers is champion again: that one goes on answering."""
    assert running.deploy(wheel("1.1.0", ("1.5 * TIMEOUT_S", "6.0"))).code == 0
    running.train("slow", 3.0, loading="slow")
    weighed(running, "slow")
    trained(running, "slow", 4.0)
    running.restart()  # workers of the new process have not loaded v1 yet
    weighed(running, "slow")
    before = loads(running, "slow.scale", 1)

    assert running.say("models", "promote", "slow.scale", "1", "--no-wait").code == 0
    assert running.say("models", "promote", "slow.scale", "2", "--no-wait").code == 0
    at_once = loads(running, "slow.scale", 1)
    wait_for(lambda: loads(running, "slow.scale", 1) > before, GONE_S, "v1 is loaded")

    assert at_once == before  # else nothing was overtaken, and the test shows nothing
    assert [weighed(running, "slow")["result"] for _ in range(5)] == [8.0] * 5
    assert numbers(running, "slow.scale") == (2, 1, [])


def test_the_lineage_is_shown_in_one_command(running: Running) -> None:
    """Release with build and lock, run, attempt, parameters, metrics, who promoted what and when, and what each version is."""
    trained(running, "known", 3.0, 4.0, 5.0)
    assert running.say("models", "promote", "known.scale", "2").code == 0
    assert running.say("models", "pin", "known.scale", "1").code == 0

    model, text = shown(running, "known.scale"), running.say("models", "show", "known.scale").out

    versions = {version["version"]: version for version in model["versions"]}  # type: ignore[attr-defined]
    marks = {number: [mark for mark in ("champion", "previous", "pinned", "deleted") if v[mark]] for number, v in versions.items()}
    assert marks == {1: ["pinned"], 2: ["champion"], 3: ["previous"]}
    run = running.platform.ask("runs", "show", versions[1]["run"], "--json")
    assert isinstance(run, dict)
    assert (versions[1]["lock_sha256"], len(versions[1]["lock_sha256"])) == (run["lock_sha256"], 64)
    assert versions[1]["build_id"] == run["build_id"]
    by = str(model["promoted_by"])
    assert by.endswith(f"@{os.uname().nodename}")
    assert int(str(model["promoted_ms"])) > versions[3]["created_ms"]
    assert text.startswith("known.scale  champion 2  previous 3  pinned 1\n")
    assert "version 3 (previous)" in text
    assert "version 2 (champion)" in text
    assert f" by {by}" in text
    assert f"lock       SHA-256 {run['lock_sha256']}" in text
    trained(running, "known", 6.0)
    assert shown(running, "known.scale")["promoted_by"] == f"run {shown(running, 'known.scale')['versions'][3]['run']}"  # type: ignore[index]


def test_a_promotion_takes_a_retired_release_up_again(tmp_path: Path) -> None:
    """Its environment is gone from the disk: it is installed anew while the champion before answers, and then it answers."""
    running = Running.start(tmp_path / "data")
    for version, factor in (("1.0.0", 3.0), ("2.0.0", 4.0), ("3.0.0", 5.0)):
        assert running.deploy(wheel(version)).code == 0
        trained(running, "acme", factor)
    assert running.deploy(wheel("4.0.0")).code == 0
    trained(running, "acme", 6.0)
    wait_for(lambda: "1.0.0" not in environments(running), GONE_S, "the first release's environment is given back")
    assert statuses(running)["1.0.0"] == "RETIRED"

    with Stream(running, "acme") as stream:
        said = running.say("models", "promote", "acme.scale", "1")
        first = weighed(running, "acme")
    answers = stream.answers()

    assert said.code == 0, said.err
    assert "weigh==1.0.0 has retired; nodes take it up again" in said.err
    assert (first["result"], first["release"]) == (6.0, "weigh==1.0.0")
    assert {one["status"] for one in answers} == {"ok"}
    assert {one["result"] for one in answers} == {12.0, 6.0}
    assert statuses(running)["1.0.0"] == "KEPT"

    # the same where the package's state has forgotten the release: it is read from the index
    trained(running, "acme", 7.0, 8.0)
    wait_for(lambda: "1.0.0" not in environments(running), GONE_S, "and is given back again")
    with store_of(running) as store:
        before = store.package("weigh")
        assert before is not None
        forgotten = tuple(release for release in before.releases if release.version != "1.0.0")
        assert store.save_package(PackageState("weigh", before.revision + 1, forgotten))
    assert running.say("models", "pin", "acme.scale", "1").code == 0
    wait_for(lambda: "1.0.0" in environments(running), GONE_S, "it is at hand")
    assert running.say("models", "promote", "acme.scale", "1").code == 0
    assert weighed(running, "acme")["result"] == 6.0
    assert running.close() == 0


def test_a_pin_keeps_a_release_and_its_end_lets_it_go(running: Running) -> None:
    """However often the model is trained under other releases, until it is unpinned."""
    assert running.deploy(wheel("1.5.0")).code == 0
    trained(running, "pinned", 3.0)
    assert running.say("models", "pin", "pinned.scale", "1").code == 0
    for version, factor in (("2.5.0", 4.0), ("3.5.0", 5.0), ("4.5.0", 6.0)):
        assert running.deploy(wheel(version)).code == 0
        trained(running, "pinned", factor)
    wait_for(lambda: statuses(running)["2.5.0"] == "RETIRED", GONE_S, "what no live model needs retires")

    assert statuses(running)["1.5.0"] == "KEPT"
    assert "1.5.0" in environments(running)
    assert running.say("models", "promote", "pinned.scale", "1").code == 0
    assert weighed(running, "pinned")["result"] == 6.0
    trained(running, "pinned", 7.0, 8.0)
    assert running.say("models", "unpin", "pinned.scale", "1").code == 0
    wait_for(lambda: statuses(running)["1.5.0"] == "RETIRED", GONE_S, "nobody keeps it any more")
    wait_for(lambda: "1.5.0" not in environments(running), GONE_S, "its environment is given back")


def test_what_is_not_in_use_is_deleted_from_the_disk(running: Running) -> None:
    """Champion, previous and pinned versions are refused, each with its mend; the rest is told, removed, and stays in the lineage."""
    trained(running, "tidy", 3.0, 4.0, 5.0, 6.0)
    assert running.say("models", "pin", "tidy.scale", "1").code == 0
    folders = files_of(running, "tidy.scale")

    refused = {number: running.say("models", "delete", "tidy.scale", "--version", str(number), "--yes") for number in (1, 3, 4)}
    whole = running.say("models", "delete", "tidy.scale", "--yes")
    said = running.say("models", "delete", "tidy.scale", "--version", "2", "--yes")
    again = running.say("models", "delete", "tidy.scale", "--version", "2", "--yes")

    assert {
        number: (each.code, each.err.splitlines()[0].split(":")[0]) for number, each in (refused | {0: whole}).items()
    } == dict.fromkeys((0, 1, 3, 4), (3, "error[version-in-use]"))
    assert said.code == 0, said.err
    assert "this deletes 1 version of tidy.scale for good: 1 file, " in said.err
    assert {number: folder.exists() for number, folder in folders.items()} == {1: True, 2: False, 3: True, 4: True}
    assert (again.code, "is deleted already" in again.err) == (0, True)
    assert "version 2 (deleted)" in running.say("models", "show", "tidy.scale").out
    assert running.say("models", "promote", "tidy.scale", "2").err.startswith("error[version-deleted]: tidy.scale v2 was deleted by ")
    # the mend of a refusal can be pasted
    assert running.say(*command_in(refused[1].err)).code == 0
    assert running.say("models", "delete", "tidy.scale", "--version", "1", "--yes").code == 0
    assert not folders[1].exists()


def test_a_deleted_model_answers_no_model_until_it_is_trained(running: Running) -> None:
    """As for a tenant that never trained, with requests coming in; the next training gives the next number."""
    trained(running, "gone", 3.0, 4.0)
    folders = files_of(running, "gone.scale")

    with Stream(running, "gone") as stream:
        wait_for(lambda: len(stream.ids) > 10, GONE_S, "requests come in")
        said = running.say("models", "delete", "gone.scale", "--yes")
        at_once = weighed(running, "gone")
        wait_for(lambda: len(stream.ids) > 20, GONE_S, "requests go on")
    codes = [one["error"]["code"] if one["status"] == "invalid" else one["status"] for one in stream.answers()]  # type: ignore[index]
    never, gone = weighed(running, "never"), weighed(running, "gone")

    assert said.code == 0, said.err
    assert "nobody answers for gone.scale then" in said.err
    assert at_once["status"] == "invalid"  # the command has seen that no node answers
    assert set(codes) == {"ok", "no_model"}
    assert codes == sorted(codes, key=lambda code: code != "ok")
    of_never = {name: str(text).replace("never", "gone") for name, text in never["error"].items()}  # type: ignore[attr-defined]
    again = "; or promote a version that was held back, if there is one: millstream models show gone.scale"  # it was trained once
    assert gone["error"] == of_never | {"mend": of_never["mend"] + again}
    assert not any(folder.exists() for folder in folders.values())
    assert running.say("models", "show", "gone.scale").out.startswith("gone.scale  no version answers")
    trained(running, "gone", 5.0)
    assert numbers(running, "gone.scale") == (3, 0, [])


def test_a_deletion_that_was_cut_off_is_finished_by_the_next(running: Running) -> None:
    """The store says that the version is deleted, its files are there still: as after a crash between the two."""
    trained(running, "cut", 3.0, 4.0, 5.0)
    folder = files_of(running, "cut.scale")[1]
    with store_of(running) as store:
        state, versions = state_of(store, "cut"), store.model_versions(tenant="cut", model="scale")
        after, deleted = delete_version(state, versions[0][1], "ada@workbench", 5_000)
        assert store.save_model(after, deleted=deleted)
    assert folder.is_dir()

    said = running.say("models", "delete", "cut.scale", "--version", "1", "--yes")

    assert said.code == 0, said.err
    assert "left over of v1" in said.err
    assert not folder.exists()
    assert shown(running, "cut.scale")["versions"][0]["deleted_by"] == "ada@workbench"  # type: ignore[index]


def test_deleting_asks_where_somebody_can_be_asked(running: Running) -> None:
    """On a terminal it waits for yes; without one it needs --yes, and says so."""
    trained(running, "asked", 3.0, 4.0, 5.0)

    alone = running.say("models", "delete", "asked.scale", "--version", "1")
    no = on_terminal(running, "n\n", "models", "delete", "asked.scale", "--version", "1")
    there = files_of(running, "asked.scale")[1].is_dir()
    yes = on_terminal(running, "y\n", "models", "delete", "asked.scale", "--version", "1")

    assert (alone.code, "--yes" in alone.err) == (2, True)
    assert "nothing is deleted" in no
    assert there
    assert "asked.scale v1 is deleted" in yes
    assert not files_of(running, "asked.scale")[1].exists()


def _truncate(folder: Path) -> None:
    for path in folder.iterdir():
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1])


def _remove_one(folder: Path) -> None:
    next(folder.iterdir()).unlink()


def _remove(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere-1"))


def _add(folder: Path) -> None:
    (folder / "unsigned").write_text("not of this model")


@pytest.mark.parametrize("damage", [_truncate, _remove_one, _remove, _add])
def test_a_version_that_is_damaged_is_refused_before_anything_changes(running: Running, damage: Callable[[Path], None]) -> None:
    """By promote, rollback and pin alike; the champion answers on, and the state is the very same."""
    tenant = f"hurt{damage.__name__}"
    trained(running, tenant, 3.0, 4.0)
    damage(files_of(running, f"{tenant}.scale")[1])
    before = shown(running, f"{tenant}.scale")["revision"]

    said = [running.say("models", *command) for command in _commands_of_one(f"{tenant}.scale")]

    assert {(each.code, each.err.split(":")[0]) for each in said} == {(4, "error[model-damaged]")}
    assert shown(running, f"{tenant}.scale")["revision"] == before
    assert weighed(running, tenant)["result"] == 8.0


def _commands_of_one(model: str) -> list[tuple[str, ...]]:
    return [("promote", model, "1"), ("rollback", model), ("pin", model, "1")]


def test_a_version_that_nobody_signed_is_refused(running: Running) -> None:
    """The store says that it is a version, but no known key signed it."""
    trained(running, "forged", 3.0, 4.0)
    with store_of(running) as store, store._database.writers.begin() as connection:
        connection.exec_driver_sql(
            'UPDATE model_version SET body = CAST(replace(CAST(body AS TEXT), \'"signature":"\', \'"signature":"AAAA\') AS BLOB) '
            "WHERE tenant = 'forged' AND version = 1"
        )

    said = running.say("models", "promote", "forged.scale", "1")

    assert (said.code, said.err.split(":")[0]) == (4, "error[model-damaged]")
    assert "the signature of the manifest of forged.scale v1 is not one of the key" in said.err
    assert numbers(running, "forged.scale") == (2, 1, [])


def test_a_version_that_does_not_load_is_told_and_the_one_before_answers(running: Running) -> None:
    """Its files are whole, so it is promoted; nodes try to load it anew, and the command tells what its code raised."""
    trained(running, "stuck", 3.0)
    running.train("stuck", 4.0, loading="raise")
    wait_for(lambda: running.say("models", "rollback", "stuck.scale").code == 0, GONE_S, "it goes back to v1")

    said = running.say("models", "promote", "stuck.scale", "2")

    assert (said.code, said.err.splitlines()[-3].split(":")[0]) == (4, "error[promotion-failed]"), said.err
    assert "this model cannot be loaded" in said.err
    assert weighed(running, "stuck")["result"] == 6.0
    assert running.say("models", "rollback", "stuck.scale").code == 0
    assert weighed(running, "stuck")["result"] == 6.0


def test_ctrl_c_stops_the_watching_and_not_the_promotion(running: Running) -> None:
    """Nodes do it whether anybody watches or not; the command says how to look."""
    assert running.deploy(wheel("5.0.0")).code == 0
    trained(running, "patient", 3.0)
    assert running.deploy(wheel("6.0.0")).code == 0
    trained(running, "patient", 4.0, 5.0)
    assert running.deploy(wheel("7.0.0")).code == 0
    wait_for(lambda: "5.0.0" not in environments(running), GONE_S, "the first release is gone")

    process = running.platform.spawn("models", "promote", "patient.scale", "1", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: numbers(running, "patient.scale")[0] == 1, GONE_S, "it is written")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)

    assert process.returncode in (130, 0)  # 0 where it was done just before
    if process.returncode:
        assert b"nodes go on without this command" in err
    wait_for(lambda: weighed(running, "patient")["result"] == 6.0, GONE_S, "it answers all the same")


def test_a_release_that_cannot_be_installed_is_told_and_the_one_before_answers(tmp_path: Path) -> None:
    """Its wheel is gone from the index: refused by the command; where it is gone later, the node says so, and goes on after a restart."""
    running = Running.start(tmp_path / "data")
    for version, factor in (("1.0.0", 3.0), ("2.0.0", 4.0), ("3.0.0", 5.0)):
        assert running.deploy(wheel(version)).code == 0
        trained(running, "acme", factor)
    assert running.deploy(wheel("4.0.0")).code == 0
    wait_for(lambda: "1.0.0" not in environments(running), GONE_S, "the first release is gone")
    for path in (running.platform.data_dir / "index").rglob("weigh-1.0.0*"):
        path.unlink()

    refused = running.say("models", "promote", "acme.scale", "1")
    before = numbers(running, "acme.scale")
    with store_of(running) as store:
        state, versions = state_of(store, "acme"), store.model_versions(tenant="acme", model="scale")
        assert store.save_model(promote(state, versions[0][1], "ada@workbench", 5_000))
    said = running.say("models", "promote", "acme.scale", "1")
    answered = weighed(running, "acme")
    running.restart()
    answered_again = weighed(running, "acme")
    back = running.say("models", "rollback", "acme.scale")

    assert (refused.code, refused.err.split(":")[0]) == (3, "error[not-published]")
    assert before == (3, 2, [])
    assert (said.code, said.err.splitlines()[-3].split(":")[0]) == (4, "error[promotion-failed]"), said.err
    assert "BROKEN" in said.err
    assert [answered["result"], answered_again["result"]] == [10.0, 10.0]
    assert back.code == 0, back.err
    assert weighed(running, "acme")["result"] == 10.0
    assert running.close() == 0


@pytest.mark.parametrize("command", ["promote", "rollback", "pin", "unpin", "delete"])
@pytest.mark.parametrize(
    ("model", "label"),
    [
        ("acme.nothing", "unknown-model"),
        ("nobody.scale", "unknown-model"),
        ("scale", "bad-name"),
        ("acme.", "bad-name"),
        ("acme.scale.x", "bad-name"),
        ("../../etc.scale", "bad-name"),
        ("acme.sc ale", "bad-name"),
        ("", "bad-name"),
    ],
)
def test_a_model_that_there_is_not_is_told(running: Running, command: str, model: str, label: str) -> None:
    """Each command ends with the exit code of invalid input, and changes nothing."""
    said = running.say("models", command, model, *([] if command in ("rollback", "delete") else ["1"]))

    assert (said.code, said.err.split(":")[0]) == (3, f"error[{label}]")
    assert "mend: " in said.err


@pytest.mark.parametrize("command", ["promote", "pin", "unpin", "delete"])
@pytest.mark.parametrize(
    ("version", "code", "words"), [("99", 3, "acme.scale has no version 99; it has 1, 2, 3"), ("0", 2, ""), ("x", 2, "")]
)
def test_a_version_that_there_is_not_is_told(running: Running, command: str, version: str, code: int, words: str) -> None:
    """With those that there are; what is no number is wrong usage."""
    said = running.say("models", command, "acme.scale", *(["--version", version] if command == "delete" else [version]))

    assert said.code == code
    assert words in said.err


def test_there_is_no_way_back_from_a_first_version(running: Running) -> None:
    """The refusal names the command that takes a version."""
    trained(running, "first", 3.0)

    said = running.say("models", "rollback", "first.scale")

    assert (said.code, said.err.split(":")[0]) == (3, "error[no-previous]")
    assert "millstream models promote first.scale VERSION" in said.err


def test_without_a_node_it_is_written_and_done_by_the_next(tmp_path: Path) -> None:
    """The command says that nobody works, and ends; the next `up` answers with what was promoted."""
    running = Running.start(tmp_path / "data")
    assert running.deploy(wheel("1.0.0")).code == 0
    trained(running, "acme", 3.0, 4.0)
    assert running.node is not None
    running.node.stop()

    said = running.say("models", "rollback", "acme.scale")
    running.up()

    assert said.code == 0
    assert "no node works on" in said.err
    assert weighed(running, "acme")["result"] == 6.0
    assert running.close() == 0
