"""Deploying without a node: what is written, what is refused, what is shown."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from millstream_server import app
from millstream_server.cli.deploy import Target, _begin_rollback
from millstream_server.cli.following import Watch, follow, said_by_nodes
from millstream_server.cli.printing import LivePhases, span
from millstream_server.core.errors import Failed, Invalid
from millstream_server.core.release import (
    Manifest,
    PackageState,
    PipelineSpec,
    Release,
    before_in_line,
    begin_deploy,
    check_pipeline_names,
    fail_deploy,
    promote,
)
from millstream_server.core.status import ReleaseStatusRow

from .conftest import RunCommand


def made(
    package: str = "anomaly", version: str = "1.0.0", pipelines: tuple[str, ...] = ("train", "detect"), status: str = "CURRENT"
) -> Release:
    specs = tuple(PipelineSpec(name, "inference", "m", name) for name in pipelines)
    manifest = Manifest(1, package, version, f"{version}+{package}", "3.11", "", "0.1.0", "2026-11-21", ("m",), "c", "l", specs)
    return Release(manifest, f"{package}.whl", "f" * 64, status, deployed_ms=5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "package", "version"),
    [("anomaly==1.0.0", "anomaly", "1.0.0"), ("Anomaly_X==2.0rc1", "anomaly-x", "2.0rc1"), ("anomaly", "anomaly", "")],
)
def test_a_release_is_named_as_indexes_spell_it(text: str, package: str, version: str) -> None:
    """The name is normalised; the version may be left out where that makes sense."""
    assert Target.parse(text) == Target(package, version)


def test_a_pipeline_name_of_another_package_is_refused() -> None:
    """A request names the pipeline alone, so two packages cannot both have it while the other's release answers."""
    other = PackageState("churn", 1, (made("churn", pipelines=("score", "detect")),))

    with pytest.raises(Invalid, match=r"anomaly==1.0.0 has detect, which churn==1.0.0 has already \(CURRENT\)") as caught:
        check_pipeline_names(made(), [other])

    assert caught.value.code == "pipeline_name_taken"
    assert caught.value.mend == "rename detect in one of the two packages"


@pytest.mark.parametrize("status", ["FAILED", "RETIRED"])
def test_a_pipeline_name_is_free_again_when_its_release_answers_no_more(status: str) -> None:
    """Releases that failed or were retired hold no names, and neither do other releases of the same package."""
    check_pipeline_names(
        made(), [PackageState("churn", 1, (made("churn", pipelines=("detect",), status=status),)), PackageState("anomaly", 1, (made(),))]
    )


@pytest.mark.parametrize(("theirs_ms", "package"), [(4, "zinc"), (5, "anomaly"), (6, "anomaly"), (5, "zinc")])
def test_of_two_packages_written_in_the_same_moment_one_keeps_the_name(theirs_ms: int, package: str) -> None:
    """The earlier one, by name where both are equal; each command finds the same one."""
    ours = made("churn", pipelines=("detect",), status="DEPLOYING")
    theirs = msgspec.structs.replace(made(package, status="DEPLOYING"), deployed_ms=theirs_ms)
    rows = [begin_deploy(PackageState(each.manifest.package), each) for each in (ours, theirs)]

    refused = []
    for each in (ours, theirs):
        try:
            check_pipeline_names(each, before_in_line(each, rows))
        except Invalid as error:
            refused.append((each.manifest.package, error.code))

    first = min((ours, theirs), key=lambda each: (each.deployed_ms, each.manifest.package))
    last = theirs if first is ours else ours
    assert refused == [(last.manifest.package, "pipeline_name_taken")]


def row(environment: str, phase: str = "", reason: str = "") -> ReleaseStatusRow:
    return ReleaseStatusRow("anomaly", "1.0.0", "1.0.0+anomaly", environment, reason, phase=phase, prefix="/nowhere", deployed_ms=5)  # type: ignore[arg-type]


def test_a_deployment_is_shown_phase_by_phase_until_it_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    """Every phase that was seen has a line, then READY, then CURRENT."""
    release = made(status="DEPLOYING")
    deploying = begin_deploy(PackageState("anomaly"), release)
    watch = Watch(LivePhases(), release)

    shown = [
        watch.look(deploying, {"n": None}),
        watch.look(deploying, {"n": row("INSTALLING", "download")}),
        watch.look(deploying, {"n": row("INSTALLING", "workers")}),
        watch.look(deploying, {"n": row("READY")}),
        watch.look(promote(deploying), {"n": row("READY")}),
    ]

    assert shown == [False, False, False, False, True]
    words = [line.split()[0] for line in capsys.readouterr().err.splitlines()]
    assert words == ["wait", "download", "workers", "READY", "anomaly==1.0.0"]


def test_every_node_is_shown_with_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    """One is READY while the other still installs and then breaks, with the reason; a third one is gone."""
    release = made(status="DEPLOYING")
    deploying = begin_deploy(PackageState("anomaly"), release)
    watch = Watch(LivePhases(), release)

    watch.look(deploying, {"n1": row("INSTALLING", "download"), "n2": None, "n3": None})
    watch.look(deploying, {"n1": row("READY"), "n2": row("INSTALLING", "download")})
    watch.look(deploying, {"n1": row("READY"), "n2": row("BROKEN", reason="its import fails\nTraceback")})
    with pytest.raises(Failed, match=r"was given up: its import fails \(on n2\)"):
        watch.look(fail_deploy(deploying, "its import fails (on n2)"), {"n1": row("READY"), "n2": row("BROKEN", reason="its import fails")})

    lines = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "download 0.0 s on n1",
        "READY 0.0 s on n1",
        "wait 0.0 s on n2",
        "gone 0.0 s n3 was not heard for a while; it holds nothing up",
        "download 0.0 s on n2",
        "BROKEN 0.0 s on n2: its import fails",
    ]


def test_a_deployment_that_ran_out_of_time_names_the_nodes_that_were_not_ready() -> None:
    """And what they were doing."""
    release = made(status="DEPLOYING")
    late = fail_deploy(begin_deploy(PackageState("anomaly"), release), "it was not ready within 600 s")

    with pytest.raises(Failed, match=r"was not ready within 600 s; not READY: n2 \(download\)"):
        Watch(LivePhases(), release).look(late, {"n1": row("READY"), "n2": row("INSTALLING", "download")})


def test_a_node_that_came_late_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """The release is current by what was live when it was decided; who is not ready yet is told."""
    release = made(status="DEPLOYING")
    current = promote(begin_deploy(PackageState("anomaly"), release))

    assert Watch(LivePhases(), release).look(current, {"n1": row("READY"), "n2": None})

    assert "not READY yet, and without work until then: n2 (wait)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("its import fails (on node-1)", "deploy_failed"),
        ("it was not ready within 600 s", "deploy_timeout"),
        ("cancelled by hand", "deploy_failed"),
    ],
)
def test_a_deployment_that_was_given_up_tells_the_reason(reason: str, code: str) -> None:
    """The failure carries what the nodes said."""
    release = made(status="DEPLOYING")
    failed = fail_deploy(begin_deploy(PackageState("anomaly"), release), reason)

    with pytest.raises(Failed, match="was given up") as caught:
        Watch(LivePhases(), release).look(failed, {"n": row("BROKEN", reason=reason)})

    assert caught.value.code == code
    assert reason in caught.value.message


def test_a_deployment_whose_place_was_taken_ends() -> None:
    """Where the release has gone from the state, watching it ends in an error instead of waiting for ever."""
    with pytest.raises(Failed, match="another deployment took its place"):
        Watch(LivePhases(), made(status="DEPLOYING")).look(PackageState("anomaly"), {})


def test_following_reads_what_the_store_says(ports: app.Ports, capsys: pytest.CaptureFixture[str]) -> None:
    """A release that is current already ends the following at once."""
    deploying = begin_deploy(PackageState("anomaly"), made(status="DEPLOYING"))
    assert ports.store.save_package(deploying)
    assert ports.store.save_package(promote(deploying))

    assert follow(ports.store, deploying.releases[0]) == 0
    assert said_by_nodes(ports.store, deploying.releases[0]) == {}
    assert "anomaly==1.0.0 is CURRENT" in capsys.readouterr().err


# --- back -----------------------------------------------------------------------------------------------------------------


def deployed(ports: app.Ports, *releases: Release) -> None:
    """Releases that became current one after the other."""
    state = PackageState(releases[0].manifest.package)
    for release in releases:
        for next_state in (begin := begin_deploy(state, release), promote(begin)):
            assert ports.store.save_package(next_state)
            state = next_state


def test_a_rollback_deploys_the_one_before_and_warns_of_what_it_takes(ports: app.Ports, capsys: pytest.CaptureFixture[str]) -> None:
    """It says from where to where, and that models stay; a pipeline that only the newer one has is told and stops nothing."""
    deployed(ports, made(version="1.0.0"), made(version="2.0.0", pipelines=("train", "detect", "explain")))

    wanted = _begin_rollback(ports.store, "anomaly")

    state = ports.store.package("anomaly")
    assert state is not None
    assert state.deploying is not None
    assert (state.deploying.label, state.deploying.deployed_ms) == ("anomaly==1.0.0", wanted.deployed_ms)
    assert wanted.deployed_ms > 5
    said = capsys.readouterr().err
    assert said.startswith("back from 2.0.0 to 1.0.0; models stay with the releases that trained them\n")
    assert "warning: anomaly==1.0.0 breaks callers of anomaly==2.0.0:\n  explain: is gone\n  mend: " in said
    assert "millstream deploy anomaly==2.0.0 --allow-breaking" in said


def test_a_rollback_that_is_given_up_leaves_the_way_back_open(ports: app.Ports, capsys: pytest.CaptureFixture[str]) -> None:
    """The release is kept as before, at its place; who followed is told the reason, and it can be tried again."""
    deployed(ports, made(version="0.9.0"), made(version="1.0.0"), made(version="2.0.0"))
    wanted = _begin_rollback(ports.store, "anomaly")
    state = ports.store.package("anomaly")
    assert state is not None
    given_up = fail_deploy(state, "cancelled by hand")
    assert ports.store.save_package(given_up)

    with pytest.raises(Failed, match=r"anomaly==1\.0\.0 was given up: cancelled by hand"):
        Watch(LivePhases(), wanted).look(given_up, {})

    assert [(each.version, each.status) for each in given_up.releases] == [("0.9.0", "KEPT"), ("1.0.0", "KEPT"), ("2.0.0", "CURRENT")]
    assert _begin_rollback(ports.store, "anomaly").version == "1.0.0"
    assert capsys.readouterr().err.count("back from 2.0.0 to 1.0.0") == 2


def test_there_is_nothing_to_go_back_to_where_nothing_is_kept(ports: app.Ports) -> None:
    """The first release has none before it; the mend names the way of a version."""
    deployed(ports, made())

    with pytest.raises(Invalid, match=r"no release of anomaly is kept beside anomaly==1\.0\.0") as caught:
        _begin_rollback(ports.store, "anomaly")

    assert "millstream deploy anomaly==VERSION" in caught.value.mend
    with pytest.raises(Invalid, match="churn has no current release"):
        _begin_rollback(ports.store, "churn")


def test_a_rollback_waits_for_a_deployment_or_gives_it_up_first(ports: app.Ports) -> None:
    """A package has one deployment at a time; both ways are named."""
    deployed(ports, made(version="1.0.0"), made(version="2.0.0"))
    state = ports.store.package("anomaly")
    assert state is not None
    assert ports.store.save_package(begin_deploy(state, made(version="3.0.0")))

    with pytest.raises(Invalid, match=r"anomaly==3\.0\.0 is being deployed") as caught:
        _begin_rollback(ports.store, "anomaly")

    assert "millstream deploy --cancel anomaly" in caught.value.mend


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--rollback", "anomaly==1.0.0"), "millstream deploy --rollback anomaly"),
        (("--rollback", "--cancel", "anomaly"), "first the one, then the other"),
    ],
)
def test_a_deployment_that_is_meant_in_two_ways_is_refused(millstream: RunCommand, arguments: tuple[str, ...], words: str) -> None:
    """Wrong usage ends with its own exit code before anything is written."""
    done = millstream("deploy", *arguments)

    assert done.returncode == 2
    assert words in done.stderr


def test_a_version_that_is_not_published_cannot_be_deployed(millstream: RunCommand) -> None:
    """The error names the versions that are, and nothing is written."""
    done = millstream("deploy", "anomaly==1.0.0")

    assert done.returncode == 3
    assert "error[not-published]" in done.stderr
    assert millstream("releases", "list").stdout == ""


@pytest.mark.parametrize(
    ("named", "code", "words", "mend"),
    [
        ("fruit==9.9.9", "not-published", "published: 1.0.0, 1.1.0", "deploy one that is published: millstream deploy fruit==1.1.0"),
        ("friut==1.0.0", "not-published", "near misses: fruit (1.0.0, 1.1.0)", "correct the name: millstream deploy fruit==1.1.0"),
        ("churn==1.0.0", "not-published", "published: fruit", "build and publish it: millstream build && millstream publish"),
        ("fruit", "bad-input", "published: 1.0.0, 1.1.0", "deploy one that is published: millstream deploy fruit==1.1.0"),
        ("friut", "bad-input", "near misses: fruit (1.0.0, 1.1.0)", "correct the name: millstream deploy fruit==1.1.0"),
    ],
)
def test_a_release_that_is_named_wrong_is_told_with_what_is_published(
    millstream: RunCommand, data_dir: Path, named: str, code: str, words: str, mend: str
) -> None:
    """Versions of the package, or of those with a near name, and the command that deploys one; the SDK in the index is nobody's."""
    for name in ("fruit-1.0.0", "fruit-1.1.0", "millstream_sdk-0.1.0"):
        (data_dir / "index").mkdir(exist_ok=True)
        (data_dir / "index" / f"{name}-py3-none-any.whl").write_bytes(b"")

    done = millstream("deploy", named)

    failed, where, mended = done.stderr.splitlines()
    assert done.returncode == 3
    assert failed.startswith(f"error[{code}]: ")
    assert failed.endswith(words)
    assert where == f"where: release {named}"
    assert mended == f"mend: {mend}"
    assert "PUBLISHED" in millstream("releases", "list").stdout


def test_there_is_nothing_to_cancel_where_nothing_is_deployed(millstream: RunCommand) -> None:
    """Cancelling names the package for which no deployment is under way."""
    done = millstream("deploy", "--cancel", "anomaly")

    assert done.returncode == 3
    assert "no deployment of anomaly is under way" in done.stderr


# --- what is printed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.4 s"), (12.3, "12 s"), (185, "3 min 5 s"), (7440, "2 h 4 min"), (270_000, "3 d 3 h"), (60, "1 min 0 s")]
)
def test_durations_are_told_in_two_units(seconds: float, text: str) -> None:
    """Short ones with a tenth, long ones in the two units that matter."""
    assert span(seconds) == text
