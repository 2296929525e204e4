"""Deploying without a node: what is written, what is refused, what is shown."""

from __future__ import annotations

import pytest
from millstream_server.cli.deploy import Target, Watch, follow
from millstream_server.cli.printing import LivePhases, cut, span, table
from millstream_server.core.errors import Failed, Invalid
from millstream_server.core.release import (
    Manifest,
    PackageState,
    PipelineSpec,
    Release,
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


def rows(environment: str, phase: str = "", reason: str = "") -> list[ReleaseStatusRow]:
    return [ReleaseStatusRow("anomaly", "1.0.0", "1.0.0+anomaly", environment, reason, phase=phase, prefix="/nowhere", deployed_ms=5)]  # type: ignore[arg-type]


def test_a_deployment_is_shown_phase_by_phase_until_it_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    """Every phase that was seen has a line, then READY, then CURRENT."""
    release = made(status="DEPLOYING")
    deploying = begin_deploy(PackageState("anomaly"), release)
    watch = Watch(LivePhases(), release)

    shown = [
        watch.look(deploying, []),
        watch.look(deploying, rows("INSTALLING", "download")),
        watch.look(deploying, rows("INSTALLING", "workers")),
        watch.look(deploying, rows("READY")),
        watch.look(promote(deploying), rows("READY")),
    ]

    assert shown == [False, False, False, False, True]
    words = [line.split()[0] for line in capsys.readouterr().err.splitlines()]
    assert words == ["wait", "download", "workers", "READY", "anomaly==1.0.0"]


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
        Watch(LivePhases(), release).look(failed, rows("BROKEN", reason=reason))

    assert caught.value.code == code
    assert reason in caught.value.message


def test_a_deployment_whose_place_was_taken_ends() -> None:
    """Where the release has gone from the state, watching it ends in an error instead of waiting for ever."""
    with pytest.raises(Failed, match="another deployment took its place"):
        Watch(LivePhases(), made(status="DEPLOYING")).look(PackageState("anomaly"), [])


def test_following_reads_what_the_store_says(ports: object, capsys: pytest.CaptureFixture[str]) -> None:
    """A release that is current already ends the following at once."""
    store = ports.store  # type: ignore[attr-defined]
    deploying = begin_deploy(PackageState("anomaly"), made(status="DEPLOYING"))
    assert store.save_package(deploying)
    assert store.save_package(promote(deploying))

    assert follow(store, deploying.releases[0]) == 0
    assert "anomaly==1.0.0 is CURRENT" in capsys.readouterr().err


def test_a_version_that_is_not_published_cannot_be_deployed(millstream: RunCommand) -> None:
    """The error names the versions that are, and nothing is written."""
    done = millstream("deploy", "anomaly==1.0.0")

    assert done.returncode == 3
    assert "error[not-published]" in done.stderr
    assert millstream("releases", "list").stdout == ""


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


def test_tables_are_aligned_and_cut_to_the_width() -> None:
    """Columns are as wide as their widest cell; what does not fit ends in three dots, and of several lines only the first is shown."""
    lines = table(("A", "LONG"), [("xyz", "value\nTraceback"), ("b\t", "v" * 30)], width=20)

    assert lines == ["A    LONG", "xyz  value", "b\\t  vvvvvvvvvvvv..."]
    assert cut("abc", 3) == "abc"
