"""Environments by hand: beside a node and without one, the command makes, explains, tries, enters and removes them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_platform import Request, Running, Said, command_in, wheel

from blackbox.command import Platform
from blackbox.processes import lives, tree
from blackbox.stream import wait_for

pytestmark = pytest.mark.xdist_group("environments by hand")

WORKERS_VARIABLES = {
    *("HOME", "LANG", "PATH", "TMPDIR"),
    *("MALLOC_TRIM_THRESHOLD_", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
}

GONE_S = 30.0


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`millstream up` with `weigh` 1.0.0 current, which trained a model of acme; 2.0.0 is published."""
    running = Running.start(tmp_path_factory.mktemp("by-hand") / "data")
    deployed = running.deploy(wheel("1.0.0"))
    assert deployed.code == 0, deployed.err
    running.platform.run("publish", str(wheel("2.0.0", ("return len(text)", "return -len(text)"))))
    running.train("acme", 3.0)
    yield running
    assert running.close() == 0


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Running]:
    """A data directory on which `weigh` 1.0.0 is published and no node ever worked."""
    platform = Platform(tmp_path / "data")
    platform.run("publish", str(wheel("1.0.0")))
    running = Running(platform, tmp_path / "log")
    yield running
    assert running.close() == 0


def environments(running: Running) -> dict[str, dict[str, object]]:
    """What `list` says, by version."""
    said = running.platform.ask("environments", "list", "--json")
    assert isinstance(said, list)
    return {row["version"]: row for row in said}


def tried(running: Running, *arguments: str, stdin: bytes | None = None) -> Said:
    return running.say("environments", "run", "weigh==1.0.0", *arguments, stdin=stdin)


# --- without a node -------------------------------------------------------------------------------------------------------


def test_a_published_release_is_set_up_tried_entered_and_removed(alone: Running) -> None:
    """Nothing of it needs a node, a store or a deployment."""
    made = alone.say("environments", "setup", "weigh==1.0.0")
    prefix = Path(made.out.strip())
    assert made.code == 0, made.err
    assert [phase in made.err for phase in ("resolve", "install", "verify", "probe", "seal")] == [True] * 5
    assert "weigh==1.0.0 is set up in" in made.err
    again = alone.say("environments", "setup", "weigh==1.0.0")
    assert (again.code, again.out, "set up already" in again.err) == (0, made.out, True)

    row = environments(alone)["1.0.0"]
    assert (row["state"], row["kept"], row["folder"]) == ("no node", "by hand", str(prefix))
    assert "made by hand" in str(row["why"])
    answered = json.loads(tried(alone, "length", "--params", '{"text": "four"}').out)
    assert (answered["status"], answered["result"], answered["release"]) == ("ok", 4, "weigh==1.0.0")
    assert set(answered["durations_s"]) == {"start", "load", "run", "total"}
    assert tried(alone, "weigh", "--params", '{"x": 1}').err.startswith("error[no-model]: tenant default has no model scale")

    removed = alone.say("environments", "remove", "weigh==1.0.0", "--yes")
    assert removed.code == 0, removed.err
    assert f"this removes {prefix}" in removed.err
    assert "MB given back" in removed.err
    assert not prefix.exists()
    assert alone.say("environments", "list").err.startswith("no environment yet")


def test_without_a_yes_nothing_is_removed(alone: Running) -> None:
    """It says what it would do, and asks."""
    prefix = Path(alone.say("environments", "setup", "weigh==1.0.0").out.strip())

    asked = alone.say("environments", "remove", "weigh==1.0.0", stdin=b"n\n")

    assert (asked.code, "nothing was removed" in asked.err, prefix.is_dir()) == (0, True, True)


def test_an_interrupted_setup_leaves_nothing(alone: Running) -> None:
    """Ctrl-C ends what it started; the next one works."""
    command = alone.platform.argv(["environments", "setup", "weigh==1.0.0"])
    with subprocess.Popen(command, env=alone.platform.environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()  # the first phase has ended
        process.send_signal(signal.SIGINT)
        words = process.stderr.read()

    root = alone.platform.data_dir / "environments"
    left = [path.name for path in root.iterdir() if path.name.startswith(".tmp-")]
    assert left == []
    if process.returncode:  # it may have been quicker than the signal
        assert process.returncode == 130
        assert ("nothing is left over" in words) == (list(root.iterdir()) == [])
    assert alone.say("environments", "setup", "weigh==1.0.0").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (("setup", "weigh"), 2, "name the version too"),
        (("setup", "weigh==9.0.0"), 3, "error[not-published]"),
        (("setup", "nothing==1.0.0"), 3, "error[not-published]"),
        (("show", "weigh==1.0.0"), 3, "error[unknown-environment]"),
        (("show", "1.0.0+000000000000"), 3, "error[unknown-environment]"),
        (("remove", "weigh==1.0.0", "--yes"), 3, "error[unknown-environment]"),
        (("remove", "../../etc", "--yes"), 3, "error[unknown-environment]"),
        (("shell", "weigh==1.0.0", "-c", "1"), 3, "error[unknown-environment]"),
        (("run", "weigh==1.0.0", "length"), 3, "mend: make it: millstream environments setup weigh==1.0.0"),
        (("run", "weigh==1.0.0"), 2, "name the pipeline"),
        (("run", "weigh==1.0.0", "length", "--params", "{}", "--request", "x"), 2, "not both"),
    ],
)
def test_bad_input_is_told_with_the_step_that_mends_it(alone: Running, arguments: tuple[str, ...], code: int, error: str) -> None:
    """Wrong usage is 2, invalid input 3; nothing is made or removed."""
    said = alone.say("environments", *arguments)

    assert (said.code, said.out) == (code, "")
    assert error in said.err
    assert "Traceback" not in said.err


# --- one request by hand --------------------------------------------------------------------------------------------------


def test_the_champion_answers_as_on_the_node_and_nothing_is_written(running: Running) -> None:
    """Same worker, same model; neither the log nor the store hears of it."""
    before = len(list(running.platform.records("ml.pipeline.output")))

    said = tried(running, "weigh", "--tenant", "acme", "--params", '{"x": 2, "announce": "/dev/null"}')

    answered = json.loads(said.out)
    assert (said.code, answered["result"], answered["model"], answered["model_version"]) == (0, 6.0, "acme.scale", 1)
    assert "nothing is written to log or store" in said.err
    assert "| weighs 2.0" in said.err
    assert len(list(running.platform.records("ml.pipeline.output"))) == before


def test_a_request_comes_from_a_file_or_standard_input(running: Running, tmp_path: Path) -> None:
    """As it lay on the log; what the command line says too must agree."""
    request: Request = {"id": "r-1", "pipeline": "weigh", "tenant": "acme", "params": {"x": 4.0}}
    file = tmp_path / "request.json"
    file.write_text(json.dumps(request))

    assert json.loads(tried(running, "--request", str(file)).out)["result"] == 12.0
    assert json.loads(tried(running, "--request", "-", stdin=file.read_bytes()).out)["result"] == 12.0
    assert tried(running, "length", "--request", str(file)).err.startswith("error[bad-input]: the request says pipeline weigh")
    file.write_text("[1]")
    assert tried(running, "--request", str(file)).code == 3
    assert tried(running, "--request", str(tmp_path / "none")).err.startswith("error[bad-input]: the request cannot be read")


@pytest.mark.parametrize(
    ("arguments", "code", "error", "within_s"),
    [
        (("weigh", "--params", '{"x": "heavy"}'), 3, "$.x", 20),
        (("weigh", "--params", "{x}"), 3, "error[bad-input]: the parameters are not JSON", 20),
        (("weigh", "--params", "[]"), 3, "error[bad-parameters]: Expected `object`, got `array`", 20),
        (("wiegh",), 3, "mend: correct the name: weigh", 20),
        (("weigh", "--model", "9", "--params", '{"x": 1}'), 3, "error[unknown-model]: acme.scale has no version 9; it has 1", 20),
        (("length", "--model", "1", "--params", '{"text": ""}'), 3, "loads no model", 20),
        (("weigh", "--params", '{"x": 1, "harm": "raise"}'), 4, "this row cannot be weighed", 20),
        (("weigh", "--params", '{"x": 1, "harm": "nan"}'), 4, "error[not-json]", 20),
        (
            ("weigh", "--params", '{"x": 1, "harm": "exit"}'),
            4,
            "error[worker-died]: the worker ended before it answered: it exited with code 3",
            20,
        ),
        (("weigh", "--params", '{"x": 1, "harm": "segfault"}'), 4, "SIGSEGV", 20),
        (("weigh", "--params", '{"x": 1, "harm": "break the protocol"}'), 4, "it broke the protocol", 20),
        (("weigh", "--params", '{"x": 1, "harm": "never return"}'), 4, "error[timed-out]: the worker did not return within 1 s", 20),
        (("length", "--timeout", "0.5", "--params", '{"text": "", "harm": "never return"}'), 4, "within 0.5 s", 20),
    ],
)
def test_what_goes_wrong_ends_with_its_code_and_leaves_no_worker(
    running: Running, arguments: tuple[str, ...], code: int, error: str, within_s: float
) -> None:
    """Invalid is 3, failed 4, and the mend never sends anybody to a log that knows nothing of it."""
    began_s = time.monotonic()

    said = tried(running, *arguments, "--tenant", "acme")

    assert (said.code, said.out) == (code, ""), said.err
    assert error in said.err
    assert "millstream logs --request" not in said.err
    assert time.monotonic() - began_s < within_s


def test_a_worker_that_takes_too_much_memory_is_ended(running: Running) -> None:
    """By the limit that the node's workers have."""
    limited = Platform(running.platform.data_dir, settings={"MILLSTREAM_NODE_WORKER_MEMORY_BYTES": "200MiB"})

    said = Running(limited, running.log).say(
        "environments", "run", "weigh==1.0.0", "weigh", "--tenant", "acme", "--params", '{"x": 1, "harm": "allocate"}'
    )

    assert (said.code, "error[out-of-memory]" in said.err, "200 MiB" in said.err) == (4, True, True), said.err


def test_a_training_by_hand_makes_no_model(running: Running) -> None:
    """Its steps and lines are shown, its files named and thrown away."""
    before = running.platform.ask("models", "list", "--json")

    said = tried(running, "weigh_learn", "--tenant", "acme", "--params", '{"factor": 7}')

    answered = json.loads(said.out)
    assert (said.code, answered["status"], list(answered["files"])) == (0, "ok", ["model.pkl"])
    assert "| learns 7.0" in said.err
    assert "step: wait ok" in said.err
    assert running.platform.ask("models", "list", "--json") == before


def test_a_damaged_model_is_not_loaded(running: Running) -> None:
    """Signature and hashes are looked at before a byte is parsed."""
    running.train("damaged", 2.0)
    [file] = (running.platform.data_dir / "artifacts" / "damaged.scale").glob("*/model.pkl")
    whole = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(whole[:-1] + b"?")

    said = tried(running, "weigh", "--tenant", "damaged", "--params", '{"x": 1}')

    file.write_bytes(whole)
    assert (said.code, "error[model-damaged]" in said.err) == (4, True), said.err
    assert json.loads(tried(running, "weigh", "--tenant", "damaged", "--params", '{"x": 1}').out)["result"] == 2.0


def test_a_release_that_is_not_deployed_is_tried_beside_the_one_that_answers(running: Running) -> None:
    """Its own code; a model of another release is loaded with a warning, because no node would do so."""
    assert running.say("environments", "setup", "weigh==2.0.0").code == 0

    def new(*arguments: str) -> Said:
        return running.say("environments", "run", "weigh==2.0.0", *arguments)

    assert json.loads(new("length", "--params", '{"text": "four"}').out)["result"] == -4
    with_model = new("weigh", "--tenant", "acme", "--params", '{"x": 2}')
    assert json.loads(with_model.out)["result"] == 6.0
    assert "warning: acme.scale v1 was trained by weigh==1.0.0, and nodes answer it there alone" in with_model.err
    running.send([{"id": "asked", "pipeline": "length", "tenant": "acme", "params": {"text": "four"}}])
    assert running.answers(["asked"])["asked"]["result"] == 4


# --- beside a node --------------------------------------------------------------------------------------------------------


def test_the_list_says_why_each_is_kept(running: Running) -> None:
    """Current with its models; made by hand for later."""
    running.say("environments", "setup", "weigh==2.0.0")

    rows = environments(running)

    assert (rows["1.0.0"]["state"], rows["1.0.0"]["kept"]) == ("READY", "needed")
    assert str(rows["1.0.0"]["why"]).startswith("current, it answers for ")
    assert (rows["2.0.0"]["state"], rows["2.0.0"]["kept"]) == ("not used", "by hand")
    assert all(isinstance(row["own_bytes"], int) and row["own_bytes"] > 0 for row in rows.values())
    table = running.say("environments", "list").out.splitlines()
    assert table[0].split() == ["RELEASE", "STATE", "BUILD", "PYTHON", "OWN", "SHARED", "CREATED", "WHY"]
    assert len(table) == 1 + len(rows)


def test_the_seal_is_told_in_words(running: Running) -> None:
    """By release or by build, as a page or as JSON."""
    build = str(environments(running)["1.0.0"]["build_id"])

    page = running.say("environments", "show", "weigh==1.0.0").out
    said = running.platform.ask("environments", "show", build, "--json")

    for word in (build, "sha256", "compared with their hashes", "resolve", "msgspec", "weigh_learn (training)", "current"):
        assert word in page
    assert isinstance(said, dict)
    assert said["lock_sha256"] == said["manifest"]["lock_sha256"]
    assert {"weigh", "msgspec", "millstream-sdk"} <= set(said["distributions"])


def test_the_shell_is_the_workers_python(running: Running) -> None:
    """Its prefix, its variables, no credential; its exit code is Python's."""
    code = "import os, sys, weigh; print(sys.prefix); print(*sorted(os.environ)); print(sys.flags.isolated); sys.exit(7)"
    secret = Platform(running.platform.data_dir, settings={"AWS_SECRET_ACCESS_KEY": "x"})

    said = Running(secret, running.log).say("environments", "shell", "weigh==1.0.0", "-c", code)

    prefix, names, isolated = said.out.splitlines()
    assert (said.code, prefix, isolated) == (7, environments(running)["1.0.0"]["folder"], "1")
    assert set(names.split()) == WORKERS_VARIABLES
    typed = running.say("environments", "shell", "weigh==1.0.0", stdin=b"import weigh\nprint(weigh.TIMEOUT_S)\n")
    assert (typed.code, typed.out.split()) == (0, ["1.0"])


def test_what_the_node_needs_is_not_removed(running: Running) -> None:
    """The reason, and a mend that names the commands."""
    said = running.say("environments", "remove", "weigh==1.0.0", "--yes")

    assert (said.code, "error[environment-in-use]" in said.err) == (3, True), said.err
    assert "the node node-1 needs it: current" in said.err
    assert command_in(said.err.split("mend: ")[1])[0] == "deploy"
    assert "1.0.0" in environments(running)


def test_what_a_shell_works_in_is_not_removed(running: Running) -> None:
    """By nobody, until it ends; then it is."""
    running.say("environments", "setup", "weigh==2.0.0")
    until_told = "import sys; print('in', flush=True); sys.stdin.read()"
    command = running.platform.argv(["environments", "shell", "weigh==2.0.0", "-c", until_told])
    with subprocess.Popen(command, env=running.platform.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdout.readline()
        refused = running.say("environments", "remove", "weigh==2.0.0", "--yes")
        assert environments(running)["2.0.0"]["kept"] == "used"
        shell.stdin.close()

    assert (refused.code, "a command works in it" in refused.err) == (3, True), refused.err
    assert running.say("environments", "remove", "weigh==2.0.0", "--yes").code == 0
    assert "2.0.0" not in environments(running)


def test_the_node_takes_over_what_was_made_by_hand(alone: Running) -> None:
    """Deploying it installs nothing; what is then left over the collector removes, as the list foretells."""
    alone.up()
    for version in ("2.0.0", "3.0.0"):
        alone.platform.run("publish", str(wheel(version)))
        assert alone.say("environments", "setup", f"weigh=={version}").code == 0
    before = environments(alone)["2.0.0"]["sealed"]

    for version in ("1.0.0", "2.0.0"):
        assert alone.say("deploy", f"weigh=={version}").code == 0

    rows = environments(alone)
    assert (rows["2.0.0"]["sealed"], rows["2.0.0"]["kept"]) == (before, "needed")
    assert (rows["3.0.0"]["kept"], rows["3.0.0"]["why"]) == ("left over", "nothing needs it, removed when no request uses it")
    alone.restart()
    wait_for(lambda: "3.0.0" not in environments(alone), GONE_S, "the collector does what the list said")
    assert set(environments(alone)) == {"1.0.0", "2.0.0"}


def test_an_interrupted_request_by_hand_leaves_no_process(running: Running) -> None:
    """Ctrl-C ends the worker too."""
    command = running.platform.argv(
        ["environments", "run", "weigh==1.0.0", "length", "--params", '{"text": "", "harm": "never return"}', "--timeout", "60"]
    )
    with subprocess.Popen(command, env=running.platform.environment(), stderr=subprocess.PIPE, start_new_session=True) as process:
        wait_for(lambda: len(tree(process.pid)) > 1, GONE_S, "its worker runs")
        time.sleep(0.5)
        family = [one.pid for one in tree(process.pid)]
        os.kill(process.pid, signal.SIGINT)
        words = process.communicate(timeout=20)[1].decode()

    assert process.returncode == 130, words
    wait_for(lambda: not any(map(lives, family)), GONE_S, "no process of it is left: a namespace ends a moment later")
