"""Every verb of the command against a running platform: what it prints, where, and its exit code.

One long file, because one platform serves all of it: the verbs are tried on what the others left, as at an operator's desk.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import pty
import shutil
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from running_platform import INPUT, OUTPUT, PACKAGES, Running, Said, command_in, wheel

from blackbox.stream import record_value, wait_for

pytestmark = pytest.mark.xdist_group("command on a running platform")

TRAINED = {"factor": 3.0}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`millstream up` with the package `weigh` deployed and two versions of one tenant's model."""
    running = Running.start(tmp_path_factory.mktemp("command") / "data")
    deployed = running.deploy(wheel("1.0.0"))
    assert deployed.code == 0, deployed.err
    running.train("acme", 2.0)
    running.train("acme", **TRAINED)
    yield running
    assert running.close() == 0


def as_json(said: Said) -> object:
    assert said.code == 0, said.err
    return json.loads(said.out)


def rows(said: Said) -> list[dict[str, object]]:
    found = as_json(said)
    assert isinstance(found, list)
    return found


def row(said: Said) -> dict[str, object]:
    found = as_json(said)
    assert isinstance(found, dict)
    return found


def started(running: Running, *arguments: str) -> subprocess.Popen[bytes]:
    return running.platform.spawn(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def interrupted(process: subprocess.Popen[bytes]) -> Said:
    """Press Ctrl-C once, and return how the command ended."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    return Said(process.returncode, out.decode(), err.decode())


def on_terminal(running: Running, *arguments: str, columns: int = 80, lines: int = 24) -> str:
    """Run the command on a terminal of its own, and return what that shows."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    environment = running.platform.environment() | {"COLUMNS": "", "LINES": ""}  # they would stand over what the terminal says
    with subprocess.Popen(running.platform.argv(arguments), env=environment, stdout=theirs) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the terminal's end is told so, once nobody writes to it any more
            while part := os.read(ours, 65536):
                shown += part
    os.close(ours)
    assert process.returncode == 0
    return shown.decode().replace("\r\n", "\n")


# --- invoke ---------------------------------------------------------------------------------------------------------------


def test_invoke_prints_the_result_alone(running: Running) -> None:
    """Nothing but the result is on standard output, and nothing at all on standard error."""
    said = running.say("invoke", "weigh", "--tenant", "acme", "--params", '{"x": 4}')

    assert (said.code, said.out, said.err) == (0, "12.0\n", "")


def test_parameters_come_from_the_line_a_file_or_standard_input(running: Running, tmp_path: Path) -> None:
    """All three give the same answer, and a file may have line ends."""
    (tmp_path / "params.json").write_text('{\n  "text": "four"\n}\n')

    by_line = running.say("invoke", "length", "--params", '{"text": "four"}')
    by_file = running.say("invoke", "length", "--params", f"@{tmp_path / 'params.json'}")
    by_input = running.say("invoke", "length", "--params", "-", stdin=b'{"text": "four"}')

    assert [by_line.out, by_file.out, by_input.out] == ["4\n"] * 3


@pytest.mark.parametrize(
    ("arguments", "code", "label", "where"),
    [
        (["nobody"], 3, "unknown-pipeline", "$.pipeline"),
        (["weigh", "--tenant", "stranger", "--params", '{"x": 1}'], 3, "no-model", ""),
        (["weigh", "--tenant", "acme", "--params", '{"x": "heavy"}'], 3, "bad-parameters", "$.x"),
        (["weigh", "--tenant", "acme", "--params", "{"], 3, "bad-input", "--params"),
        (["weigh", "--tenant", "a b"], 3, "bad-request", "$.tenant"),
        (["weigh", "--params", "@/not/there.json"], 3, "bad-input", "/not/there.json"),
        (["length", "--params", '{"text": "", "harm": "raise"}'], 4, "pipeline-raised", "weigh==1.0.0"),
        (["weigh", "--tenant", "acme", "--params", '{"x": 1, "harm": "nan"}'], 4, "not-json", ""),
        (["weigh", "--tenant", "acme", "--params", '{"x": 1, "harm": "exit"}'], 4, "worker-died", ""),
        (["weigh", "--tenant", "acme", "--params", '{"x": 1, "seconds": 0.8}', "--deadline", "0.2"], 5, "expired", ""),
        (["weigh", "--tenant", "acme", "--params", '{"x": 1, "seconds": 0.8}', "--timeout", "0.2"], 5, "timeout", INPUT),
    ],
)
def test_invoke_ends_with_the_exit_code_of_the_status(running: Running, arguments: list[str], code: int, label: str, where: str) -> None:
    """What is not ok is told in three parts on standard error, and standard output stays empty."""
    said = running.say("invoke", *arguments)

    assert (said.code, said.out) == (code, "")
    told = said.err.splitlines()
    assert told[-3].startswith(f"error[{label}]: ")
    assert told[-2].startswith("where: ")
    assert where in told[-2]
    assert told[-1].startswith("mend: ")


def test_the_whole_result_can_be_had(running: Running) -> None:
    """--full prints release, model version and the record that is answered."""
    result = row(running.say("invoke", "weigh", "--tenant", "acme", "--params", '{"x": 1}', "--id", "whole", "--full"))

    assert (result["id"], result["status"], result["result"], result["release"]) == ("whole", "ok", 3.0, "weigh==1.0.0")
    assert (result["model"], result["model_version"]) == ("acme.scale", 2)


def test_a_request_that_nobody_waits_for_is_told_where_it_lies(running: Running) -> None:
    """--no-wait prints topic, partition and offset, and the result comes all the same."""
    told = row(running.say("invoke", "length", "--params", '{"text": "abc"}', "--id", "alone", "--no-wait"))

    result = running.answers(["alone"])["alone"]
    assert (told["id"], told["topic"]) == ("alone", INPUT)
    assert result["record"] == {name: told[name] for name in ("topic", "partition", "offset")}
    assert result["result"] == 3


def test_a_caller_who_waits_for_a_run_sees_its_steps(running: Running) -> None:
    """Progress is on standard error: the run's id, then each step as it ends."""
    said = running.say("invoke", "weigh_learn", "--tenant", "patient", "--params", '{"factor": 1, "seconds": 2.5}')

    run = json.loads(said.out)["run"]
    assert said.code == 0
    assert f"run {run}; its log: millstream runs logs {run}" in said.err
    assert "  RUNNING, attempt 1\n" in said.err
    assert "  step wait: ok after 2.5 s\n" in said.err


def test_ctrl_c_ends_the_waiting_and_not_the_request(running: Running) -> None:
    """The command says that the request stays and how it is followed; its result comes."""
    request = json.dumps({"factor": 5, "seconds": 2})
    process = started(running, "invoke", "weigh_learn", "--tenant", "leaver", "--id", "left", "--params", request)
    wait_for(lambda: running.lines("left") != [], 10, "the request on the log")

    said = interrupted(process)

    assert (said.code, said.out) == (130, "")
    assert "request left stays on the log" in said.err
    assert "millstream logs -f --request left" in said.err
    assert running.answers(["left"])["left"]["status"] == "ok"


# --- runs, models, releases -------------------------------------------------------------------------------------------------


def test_a_run_is_listed_and_shown_with_its_release_steps_and_model(running: Running) -> None:
    """The listing has the newest first; one run shows everything it was made from."""
    listed = rows(running.say("runs", "list", "--tenant", "acme", "--json"))
    shown = row(running.say("runs", "show", str(listed[0]["run"]), "--json"))
    text = running.say("runs", "show", str(listed[0]["run"]))

    assert [run["model_version"] for run in listed] == [2, 1]
    assert shown["params"] == TRAINED
    assert (shown["state"], shown["release"], shown["attempt"]) == ("SUCCEEDED", "1.0.0", 1)
    assert "step       wait: ok" in text.out
    assert "model      acme.scale version 2" in text.out
    assert "SUCCEEDED" in running.say("runs", "list").out


def test_a_run_with_wrong_parameters_tells_what_and_where(running: Running) -> None:
    """A training with wrong parameters is a run that failed: message and JSON path stand apart, in every listing."""
    said = running.say("invoke", "weigh_learn", "--tenant", "wrong", "--params", '{"factor": "two"}')
    (listed,) = rows(running.say("runs", "list", "--tenant", "wrong", "--state", "failed", "--json"))
    line = running.say("runs", "list", "--tenant", "wrong").out.splitlines()[1]
    shown = running.say("runs", "show", str(listed["run"])).out

    assert (said.code, said.err.splitlines()[-3]) == (3, "error[bad-parameters]: Expected `float`, got `str`")
    assert (listed["error_message"], listed["error_path"]) == ("Expected `float`, got `str`", "$.factor")
    assert line.endswith("$.factor: Expected `float`, got `str`")
    assert "error      bad-parameters: Expected `float`, got `str`\nat         $.factor\n" in shown


def test_a_state_that_there_is_not_is_told_with_those_that_are(running: Running) -> None:
    """In the letters in which listings spell them."""
    said = running.say("runs", "list", "--state", "faild")

    assert said.code == 2
    assert "'FAILD' is not one of 'QUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED', 'DEAD'" in said.err


def test_parameters_that_are_too_large_for_a_model_are_told_by_their_size(running: Running) -> None:
    """A version carries small parameters only; of larger ones it says so, and its run has them whole."""
    params = json.dumps({"factor": 2.0, "loading": "x" * 20_000})
    running.say("invoke", "weigh_learn", "--tenant", "large", "--params", params)

    shown = running.say("models", "show", "large.scale").out
    version = row(running.say("models", "show", "large.scale", "--json"))["versions"][0]  # type: ignore[index]

    assert f"params     too large, {len(params)} bytes; see: millstream runs show {version['run']} --json\n" in shown
    assert (version["params"], version["params_size_bytes"]) == (None, len(params))
    assert row(running.say("runs", "show", version["run"], "--json"))["params"] == json.loads(params)


def test_the_log_of_a_run_is_its_own(running: Running) -> None:
    """The author's line of this run is there, that of the other run is not."""
    newest = rows(running.say("runs", "list", "--tenant", "acme", "--json"))[0]

    said = running.say("runs", "logs", str(newest["run"]))
    followed = running.say("runs", "logs", str(newest["run"]), "--follow", timeout_s=20)

    assert "| learns 3.0" in said.out
    assert "learns 2.0" not in said.out
    assert followed.out == said.out


def test_a_running_run_is_cancelled_and_its_caller_told(running: Running) -> None:
    """Whoever waits gets a result of status cancelled, with the exit code of what did not succeed."""
    process = started(running, "invoke", "weigh_learn", "--tenant", "fickle", "--params", '{"factor": 1, "seconds": 60}')
    wait_for(lambda: bool(rows(running.say("runs", "list", "--tenant", "fickle", "--state", "RUNNING", "--json"))), 20, "the run")
    run = str(rows(running.say("runs", "list", "--tenant", "fickle", "--json"))[0]["run"])

    told = running.say("runs", "cancel", run)
    _, err = process.communicate(timeout=40)
    again = running.say("runs", "cancel", run)

    assert told.code == 0
    assert process.returncode == 4
    assert b"error[cancelled]" in err
    assert (again.code, again.err.splitlines()[0].split(":")[0]) == (3, "error[run-ended]")


@pytest.mark.parametrize(
    ("arguments", "label"),
    [
        (["runs", "show", "nobody"], "unknown-run"),
        (["runs", "logs", "nobody"], "unknown-run"),
        (["runs", "cancel", "nobody"], "unknown-run"),
        (["models", "show", "acme.nothing"], "unknown-model"),
        (["models", "show", "nothing"], "unknown-model"),
        (["releases", "show", "nothing"], "unknown-release"),
        (["releases", "show", "millstream-sd"], "unknown-release"),
        (["releases", "show", "weigh==9.9"], "unknown-release"),
        (["deploy", "weigh==9.9"], "not-published"),
    ],
)
def test_what_is_not_there_is_told_as_such(running: Running, arguments: list[str], label: str) -> None:
    """Each lookup ends with the exit code of invalid input and the code of its own."""
    said = running.say(*arguments)

    assert said.code == 3
    assert said.err.startswith(f"error[{label}]: ")
    assert "millstream-sdk" not in said.err


def test_models_are_listed_with_lineage_and_a_signature_that_can_be_checked(running: Running) -> None:
    """From the listing alone a stranger finds the files, checks their hashes and the signature over the manifest."""
    listed = {str(model["model"]): model for model in rows(running.say("models", "list", "--json"))}
    acme = listed["acme.scale"]
    versions = acme["versions"]
    assert isinstance(versions, list)
    public = load_pem_public_key(Path(str(acme["public_key"])).read_bytes())
    assert isinstance(public, Ed25519PublicKey)

    assert [(v["version"], v["champion"]) for v in versions] == [(1, False), (2, True)]
    assert [v["params"] for v in versions] == [{"factor": 2.0}, TRAINED]
    for version in versions:
        public.verify(base64.b64decode(version["signature"]), version["manifest"].encode())
        for file in json.loads(version["manifest"])["files"]:
            assert hashlib.sha256((Path(version["location"]) / file["name"]).read_bytes()).hexdigest() == file["sha256"]
        assert row(running.say("runs", "show", version["run"], "--json"))["model_version"] == version["version"]
    assert acme == row(running.say("models", "show", "acme.scale", "--json"))
    assert "version 2 (champion)" in running.say("models", "show", "acme.scale").out
    assert "acme.scale" in running.say("models", "list", "--tenant", "acme").out


def test_a_release_is_shown_with_its_pipelines_and_environment(running: Running) -> None:
    """Pipelines with their parameters, the environment on this node, and the models it answers for."""
    listed = {(r["package"], r["version"]): r["status"] for r in rows(running.say("releases", "list", "--json"))}
    shown = row(running.say("releases", "show", "weigh==1.0.0", "--json"))
    text = running.say("releases", "show", "weigh==1.0.0").out

    assert listed["weigh", "1.0.0"] == "CURRENT"
    assert "acme.scale/2" in str(shown["models"])
    environments = shown["environments"]
    assert isinstance(environments, list)
    assert (Path(environments[0]["prefix"]) / "MANIFEST.json").is_file()
    assert "x: number (required)\n" in text
    assert "  rows: array of Row (required)\n    x: number (required)\n" in text
    assert "  -> array of number\n" in text
    assert 'harm: string (default "")' in text


# --- deploy -----------------------------------------------------------------------------------------------------------------


def test_deploying_what_is_current_changes_nothing(running: Running) -> None:
    """The command says so and ends at once."""
    said = running.say("deploy", "weigh==1.0.0")

    assert (said.code, said.out) == (0, "")
    assert "weigh==1.0.0 is current already" in said.err


def test_a_pipeline_name_of_another_package_is_refused(running: Running) -> None:
    """A package that has pipelines of the same names cannot be deployed beside the first."""
    other = wheel("1.0.0", ('name = "weigh"', 'name = "weigh-too"'))
    running.platform.run("publish", str(other))

    said = running.say("deploy", "weigh-too==1.0.0")

    assert said.code == 3
    assert said.err.startswith("error[pipeline-name-taken]: ")
    assert "weigh==1.0.0 has already" in said.err


def test_ctrl_c_leaves_a_deployment_going_and_cancel_gives_it_up(running: Running) -> None:
    """Ctrl-C says how to follow or give up; giving up leaves the old release current."""
    slow = wheel("1.1.0", ("import ctypes\n", "import ctypes\nimport time as _t\n_t.sleep(6)\n"))
    running.platform.run("publish", str(slow))
    process = started(running, "deploy", "weigh==1.1.0")
    wait_for(lambda: _status_of(running, "1.1.0") == "DEPLOYING", 20, "the deployment")
    time.sleep(0.5)

    left = interrupted(process)
    still = _status_of(running, "1.1.0")
    given_up = running.say("deploy", "--cancel", "weigh")

    assert left.code == 130
    assert "the deployment of weigh==1.1.0 goes on" in left.err
    assert "millstream deploy --cancel weigh" in left.err
    assert still == "DEPLOYING"
    assert given_up.code == 0
    assert "current is weigh==1.0.0" in given_up.err
    assert _status_of(running, "1.1.0") == "FAILED"
    assert running.say("invoke", "length", "--params", '{"text": "x"}').out == "1\n"


def test_a_build_warns_of_a_model_that_nothing_trains(running: Running, tmp_path: Path) -> None:
    """A misspelt name is a valid package, of which every caller is refused; the author hears of it first."""
    source = tmp_path / "weigh"
    shutil.copytree(PACKAGES / "weigh", source, ignore=shutil.ignore_patterns("dist", "__pycache__"))
    code = source / "src/weigh/__init__.py"
    code.write_text(code.read_text().replace('@ms.inference(model="scale", timeout_s', '@ms.inference(model="scales", timeout_s'))

    said = running.say("build", str(source))

    assert said.code == 0
    assert "warning: no training of weigh makes the model scales, which weigh names; its trainings make scale\n  mend: " in said.err


def test_a_deployment_warns_of_models_that_it_leaves_behind(running: Running) -> None:
    """The tenants whose models the new release asks for by another name are told before it is current, with the training for them."""
    slow = ("import ctypes\n", "import ctypes\nimport time as _t\n_t.sleep(6)\n")
    running.platform.run("publish", str(wheel("1.2.0", slow, ('model="scale"', 'model="scales"'))))

    said = running.say("deploy", "weigh==1.2.0", "--no-wait")
    given_up = running.say("deploy", "--cancel", "weigh")

    assert given_up.code == 0, given_up.err
    warning = next(line for line in said.err.splitlines() if line.startswith("warning: "))
    assert warning.startswith("warning: weigh, weigh_all of weigh==1.2.0 ask for the model scales, not scale as before: ")
    assert "acme" in warning
    assert "  mend: train each as soon as it is current: millstream invoke weigh_learn --tenant acme --params" in said.err


def _status_of(running: Running, version: str) -> str:
    return next(
        (str(r["status"]) for r in rows(running.say("releases", "list", "--json")) if r["version"] == version and r["package"] == "weigh"),
        "",
    )


# --- dead letters, status, log, doctor ----------------------------------------------------------------------------------------


def test_a_dead_letter_is_sent_again_as_a_new_request(running: Running, tmp_path: Path) -> None:
    """The new record is answered on its own, and a header of its result says which record it replays."""
    running.say("invoke", "weigh", "--tenant", "acme", "--params", '{"x": 1, "harm": "exit"}', "--id", "fatal")
    letter = next(r for r in rows(running.say("dlq", "list", "--json")) if r["id"] == "fatal")

    replayed = json.loads(running.say("dlq", "replay", "fatal", "--yes").out)
    wait_for(lambda: len(running.results["fatal"]) == 2, 40, "the second answer")

    first, second = running.results["fatal"]
    assert (letter["code"], second["status"]) == ("worker_died", "dead")
    assert second["record"] == {name: replayed[name] for name in ("topic", "partition", "offset")}
    records = [record for record in running.platform.records(OUTPUT) if record_value(record)["id"] == "fatal"]
    origin = "/".join(str(first["record"][name]) for name in ("topic", "partition", "offset"))  # type: ignore[index]
    assert [record["headers"] for record in records] == [{}, {"ms_replay_of": origin}]


def test_status_shows_the_node_and_its_releases_on_one_screen(running: Running) -> None:
    """On a terminal within 80 columns and 24 lines, in a pipe whole, and as JSON with what the node says of itself."""
    text = running.say("status")
    screen = on_terminal(running, "status").splitlines()
    said = row(running.say("status", "--json"))

    nodes = said["nodes"]
    assert isinstance(nodes, list)
    assert running.node is not None
    assert [(node["pid"], node["accepting"], node["gone"]) for node in nodes] == [(running.node.pid, True, False)]
    assert text.code == 0
    assert len(screen) <= 24
    assert max(map(len, screen)) <= 80
    assert [line.split()[0] for line in screen if "==" in line] == [line.split()[0] for line in text.out.splitlines() if "==" in line]
    assert "weigh==1.0.0" in text.out


def test_the_traceback_stands_below_the_line_to_which_a_mend_points(running: Running) -> None:
    """The mend of a pipeline that raised names a command that shows where; `status` names it with the id too."""
    said = running.say("invoke", "length", "--params", '{"text": "", "harm": "raise"}', "--id", "traced")
    shown = running.say("logs", "--request", "traced").out.splitlines()
    told = running.say("status")

    at = next(number for number, line in enumerate(shown) if " | result: failed pipeline_raised: " in line)
    assert said.err.splitlines()[-1] == "mend: read the traceback: millstream logs --request traced"
    assert shown[at + 1] == "    Traceback (most recent call last):"
    assert "    ValueError: this row cannot be weighed" in shown[at + 2 :]
    wait_for(lambda: "  mend: read the traceback: millstream logs --request traced" in running.say("status").out, 10, "the last error")
    assert told.code == 0


def test_what_a_mend_leaves_out_is_asked_for_when_it_is_pasted(running: Running) -> None:
    """The training that a caller without a model needs, with dots where its values belong; as it stands nothing is sent."""
    said = running.say("invoke", "weigh", "--tenant", "stranger", "--params", '{"x": 1}')
    pasted = running.say(*command_in(said.err))

    assert said.err.splitlines()[-1] == "mend: train it: millstream invoke weigh_learn --tenant stranger --params '{\"factor\": ...}'"
    assert pasted.code == 3
    assert pasted.err.splitlines()[0] == 'error[bad-input]: the parameters hold dots where values belong: {"factor": ...}'
    assert pasted.err.splitlines()[-1].endswith("what the pipeline takes: millstream releases show weigh")
    assert rows(running.say("runs", "list", "--tenant", "stranger", "--json")) == []


def test_a_killed_node_is_gone_at_once(tmp_path: Path) -> None:
    """Nothing holds its data directory any more, so its last words of a moment ago are not believed."""
    killed = Running.start(tmp_path / "data")
    assert killed.node is not None
    deployed = killed.deploy(wheel("1.0.0"))
    before = killed.say("status")
    killed.node.kill()

    after = killed.say("status")
    nodes = json.loads(killed.say("status", "--json").out)["nodes"]
    shown = killed.say("releases", "show", "weigh").out
    killed.close()

    assert (deployed.code, before.code) == (0, 0)
    assert (after.code, after.out.splitlines()[0].split(";")[0]) == (5, f"! no node works on {tmp_path / 'data'}")
    assert [node["gone"] for node in nodes] == [True]
    assert "READY when the node was last heard" in shown


def test_the_log_can_be_followed(running: Running) -> None:
    """With -f lines come as they are written, those of one request only."""
    process = started(running, "logs", "-f", "--request", "followed", "--json")
    running.say("invoke", "length", "--params", '{"text": "x"}', "--id", "not-followed")
    running.say("invoke", "length", "--params", '{"text": "x"}', "--id", "followed")
    time.sleep(1)

    said = interrupted(process)

    events = [json.loads(line) for line in said.out.splitlines()]
    assert [line["event"] for line in events] == ["intake", "dispatch", "commit"]
    assert all("followed" in line["requests"] for line in events)


def test_a_running_platform_is_healthy(running: Running) -> None:
    """doctor finds nothing wrong beside a node at work."""
    said = running.say("doctor", "--json")

    found = json.loads(said.out)
    assert [finding for finding in found["findings"] if finding["state"] == "fault"] == []
    assert said.code == 0


def test_a_reader_may_come_and_go(running: Running) -> None:
    """A topic is read from its first record while the node writes to others."""
    read = running.say("topics", "read", INPUT, "--json")

    ids = [json.loads(line)["value"].get("id") for line in read.out.splitlines()]
    assert read.code == 0
    assert len(ids) == len(set(ids)) + ids.count("fatal") - bool(ids.count("fatal"))
    assert os.path.isdir(running.platform.data_dir / "bells")
