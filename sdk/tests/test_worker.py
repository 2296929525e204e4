"""The worker as a node meets it: a real process on a real socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from millstream import __version__, wire

if TYPE_CHECKING:
    from sdk.tests.conftest import NodeEnd

    Start = Callable[..., NodeEnd]

WAIT_S = 30.0

CODE = """
    import logging, os, subprocess, sys, threading, time, warnings
    from pathlib import Path

    class Limit:
        def __init__(self, value):
            self.value = value

    @ms.training(model="limit")
    def train(run: ms.Run, value: float, steps: list[str] = ["fit"]) -> Limit:
        for name in steps:
            with run.step(name):
                run.metric("value", value)
        print("trained")
        return Limit(value)

    @ms.training(model="limit")
    def train_until_cancelled(run: ms.Run) -> Limit:
        run.log("waiting")
        while True:
            run.check()
            time.sleep(0.005)

    @ms.training(model="limit")
    def train_from(run: ms.Run, model: str, version: int) -> Limit:
        run.log(run.artifact(model, version or "champion"))
        return Limit(0)

    @ms.inference(model="limit", rows_independent=True)
    def above(model: Limit, rows: list[float]) -> list[bool]:
        print("asked", len(rows))
        return [row > model.value for row in rows]

    @ms.inference
    def add(a: int, b: int = 1) -> int:
        if a == 99:
            raise ValueError("not 99")
        return a + b

    @ms.inference
    def talk(n: int) -> int:
        print("to", "stdout")
        print("to stderr", file=sys.stderr)
        ms.log("through ms", "error")
        logging.getLogger("author").info("through %s", "logging")
        warnings.warn("through warnings")
        os.write(1, b"to descriptor 1\\n")
        threading.Thread(target=print, args=("from a thread",)).start()
        print("half", n, end="")
        return n

    @ms.inference
    def misbehave(how: str) -> object:
        if how == "exit":
            sys.exit(5)
        if how == "interrupt":
            raise KeyboardInterrupt
        if how == "_exit":
            os._exit(7)
        if how == "close":
            os.closerange(3, 50)
        if how == "fork":
            pid = os.fork()
            if pid == 0:
                print("from the child")
                os._exit(0)
            return os.waitpid(pid, 0)[1]
        if how == "fork and be terminated":
            import signal
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
            os.kill(pid, signal.SIGTERM)
            return os.waitpid(pid, 0)[1]
        if how == "spawn":
            seen = subprocess.run([sys.executable, "-c", "import os; print(os.listdir('/proc/self/fd'))"], capture_output=True, text=True)
            return len(seen.stdout.split())
        if how == "read":
            return sys.stdin.read()
        if how == "many lines":
            for n in range(5000):
                print("line", n)
        return how

    @ms.inference
    def sleep(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    @ms.inference
    def big(n: int) -> str:
        return "x" * n
"""


@pytest.fixture
def worker(start_worker: Start) -> NodeEnd:
    """A worker of `CODE` that said READY."""
    return start_worker(CODE).ready()


def test_a_worker_says_who_it_is_before_it_imports(start_worker: Start) -> None:
    """HELLO is the first frame and carries wire, versions, pid and the manifest's build; READY follows with the seconds."""
    worker = start_worker("import time; time.sleep(0.3)\n" + CODE.replace("\n    ", "\n"))

    hello = worker.until(wire.Hello)
    ready = worker.until(wire.Ready)

    assert (hello.wire, hello.sdk, hello.pid) == (wire.WIRE, __version__, worker.process.pid)
    assert (hello.package, hello.version, hello.build_id) == ("demo", "1.0.0", "1.0.0+0123456789ab")
    assert ready.error is None
    assert 0.3 <= ready.seconds < WAIT_S


def test_train_load_ask_and_drain(worker: NodeEnd) -> None:
    """A training's files are loaded as a model version and answer requests; DRAIN ends the worker with BYE and exit code 0."""
    folder = worker.train("train", '{"value":2}')
    trained = worker.until(wire.Results).outcomes[0]
    loaded = worker.load("acme.limit", 1, folder)

    answers = worker.execute("above", '{"rows":[1,3]}', '{"rows":[2.5]}', '{"rows":"x"}', model="acme.limit", version=1)

    assert (trained.status, trained.body) == ("ok", b'{"metrics":{"value":2.0}}')
    assert (loaded.model, loaded.version, loaded.error) == ("acme.limit", 1, None)
    assert loaded.rss_bytes > 1_000_000
    assert answers == [[False, True], [True], ("bad_parameters", "$.rows")]
    assert worker.drain() == wire.Bye("drained")


def test_steps_metrics_and_lines_of_a_run_are_frames_with_its_id(worker: NodeEnd) -> None:
    """STEP and METRIC carry the run's id, LOG the request's, in the order in which they happened."""
    worker.train("train", '{"value":2,"steps":["a","b"]}', run="run-7")
    worker.until(wire.Results)

    told = [m for m in worker.seen if isinstance(m, (wire.Step, wire.Metric, wire.Log))]
    assert [type(m).__name__ for m in told] == ["Step", "Metric", "Step"] * 2 + ["Log"]
    assert [(m.run, m.name, m.status) for m in told if isinstance(m, wire.Step)] == [
        ("run-7", "a", "running"),
        ("run-7", "a", "ok"),
        ("run-7", "b", "running"),
        ("run-7", "b", "ok"),
    ]
    assert worker.lines() == [("stdout", "trained", ("r1",))]


def test_several_models_and_versions_are_held_until_unloaded(worker: NodeEnd) -> None:
    """Each EXECUTE is answered by the version that it names; an unloaded one, or one never loaded, is model_load_failed."""
    for version, value in ((1, 1), (2, 2)):
        folder = worker.train("train", f'{{"value":{value}}}', name=f"model-{version}")
        worker.load("acme.limit", version, folder)

    first = worker.execute("above", '{"rows":[1.5]}', model="acme.limit", version=1)
    second = worker.execute("above", '{"rows":[1.5]}', model="acme.limit", version=2)
    worker.send(wire.Unload("acme.limit", 1))
    worker.send(wire.Unload("acme.limit", 77))
    third = worker.execute("above", '{"rows":[1.5]}', model="acme.limit", version=1)
    fourth = worker.execute("above", '{"rows":[1.5]}', model="bolt.limit", version=2)

    assert (first, second) == ([[True]], [[False]])
    assert third == fourth == [("model_load_failed", "")]


def test_a_model_that_cannot_be_loaded_answers_with_its_error(worker: NodeEnd, tmp_path: Path) -> None:
    """LOADED tells the error, and every later EXECUTE for the version ends with it; loading it again may mend it."""
    (tmp_path / "model.pkl").write_bytes(b"no pickle")

    loaded = worker.load("acme.limit", 1, tmp_path)
    answers = worker.execute("above", '{"rows":[1]}', '{"rows":[2]}', model="acme.limit", version=1)
    mended = worker.load("acme.limit", 1, worker.train("train", '{"value":0}'))

    assert loaded.error is not None
    assert loaded.error.code == "model_load_failed"
    assert "UnpicklingError" in loaded.error.message
    assert answers == [("model_load_failed", "")] * 2
    assert mended.error is None
    assert worker.execute("above", '{"rows":[1]}', model="acme.limit", version=1) == [[True]]


def test_a_pipeline_that_the_release_does_not_have_is_the_caller_s_error(worker: NodeEnd) -> None:
    """An unknown name, or a training asked as an inference, is invalid/pipeline_not_in_release for each row."""
    assert worker.execute("nowhere", "{}", "{}") == [("pipeline_not_in_release", "")] * 2
    assert worker.execute("train", '{"value":1}') == [("pipeline_not_in_release", "")]


def test_a_failing_row_says_where_and_its_neighbours_are_answered(worker: NodeEnd) -> None:
    """The outcome carries the author's place and traceback; rows before and after have their results."""
    worker.start("add", '{"a":1}', '{"a":99}', '{"a":2,"b":5}')

    outcomes = worker.until(wire.Results).outcomes

    assert [o.status for o in outcomes] == ["ok", "failed", "ok"]
    assert outcomes[1].error is not None
    assert outcomes[1].error.message.startswith("ValueError: not 99, at pipelines.py:")
    assert "raise ValueError" in outcomes[1].error.detail
    assert "_shapes.py" not in outcomes[1].error.detail


def test_every_way_of_writing_becomes_a_line_with_the_request_s_id(worker: NodeEnd) -> None:
    """print, standard error, ms.log, logging and warnings are LOG frames; what goes to descriptor 1 stays on it."""
    assert worker.execute("talk", '{"n":1}') == [1]
    assert worker.execute("talk", '{"n":2}') == [2]

    lines = worker.lines()
    for line in (
        ("stdout", "to stdout", ("r1",)),
        ("stderr", "to stderr", ("r1",)),
        ("", "through ms", ("r1",)),
        ("author", "through logging", ("r1",)),
        ("stdout", "from a thread", ()),
        ("stdout", "half 1", ("r1",)),
        ("stdout", "half 2", ("r1",)),
    ):
        assert line in lines
    assert any(logger == "py.warnings" and "through warnings" in text for logger, text, _ in lines)
    assert {m.message: m.level for m in worker.seen if isinstance(m, wire.Log)}["through ms"] == "error"
    assert worker.output.read_text() == "to descriptor 1\n" * 2


def test_a_joined_call_s_lines_carry_all_its_requests(worker: NodeEnd) -> None:
    """A line of a call that answers three requests names the three."""
    worker.load("acme.limit", 1, worker.train("train", '{"value":2}'))

    worker.execute("above", '{"rows":[1]}', '{"rows":[2]}', '{"rows":[3]}', model="acme.limit", version=1)

    assert worker.lines()[-1] == ("stdout", "asked 3", ("r1", "r2", "r3"))


def test_lines_beyond_the_limit_are_counted(worker: NodeEnd) -> None:
    """Of 5,000 lines in a moment the node gets about a thousand and the number of the others; the answer comes all the same."""
    assert worker.execute("misbehave", '{"how":"many lines"}') == ["many lines"]

    texts = [text for _, text, _ in worker.lines()]
    dropped = sum(int(text.split()[0]) for text in texts if "lines dropped" in text)
    assert dropped > 0
    assert len([text for text in texts if text.startswith("line ")]) + dropped == 5000


@pytest.mark.parametrize("how", ["exit", "interrupt"])
def test_exits_of_pipeline_code_do_not_end_the_worker(worker: NodeEnd, how: str) -> None:
    """sys.exit and KeyboardInterrupt are that request's failure; the next one is answered."""
    assert worker.execute("misbehave", f'{{"how":"{how}"}}', '{"how":"x"}') == [("pipeline_raised", ""), "x"]


@pytest.mark.parametrize(("how", "code"), [("_exit", 7), ("close", 3)])
def test_pipeline_code_that_ends_its_process_is_seen_as_a_death(worker: NodeEnd, how: str, code: int) -> None:
    """os._exit ends the worker with its code; closing the worker's socket ends it too, before it can answer anything else."""
    worker.start("misbehave", f'{{"how":"{how}"}}')

    assert wire.Results not in worker.read_to_the_end()
    assert worker.process.wait(WAIT_S) == code


def test_processes_of_pipeline_code_leave_the_socket_alone(worker: NodeEnd) -> None:
    """A forked child's lines go to standard error, its signals are Python's own, and a spawned one inherits no socket."""
    answers = [worker.execute("misbehave", f'{{"how":"{how}"}}')[0] for how in ("fork", "fork and be terminated", "spawn", "read")]

    assert answers == [0, int(signal.SIGTERM), 4, ""]
    assert "from the child" in worker.output.read_text()
    assert worker.execute("add", '{"a":1}') == [2]


def test_a_result_over_the_limit_of_the_command_line_is_refused(start_worker: Start) -> None:
    """--max-result-bytes is what one result may weigh."""
    worker = start_worker(CODE, "--max-result-bytes", "100").ready()

    assert worker.execute("big", '{"n":98}', '{"n":99}') == ["x" * 98, ("result_too_large", "$")]


def test_results_that_fit_no_frame_together_may_be_tried_again(start_worker: Start) -> None:
    """A batch whose results exceed a frame is answered all the same: the last of them fail as retryable."""
    worker = start_worker(CODE, "--max-result-bytes", str(1 << 28)).ready()
    worker.start("big", *['{"n":70000000}'] * 4)

    outcomes = worker.until(wire.Results).outcomes

    assert [o.status for o in outcomes] == ["ok", "ok", "failed", "failed"]
    assert [(o.error.code, o.error.retryable) for o in outcomes if o.error] == [("result_too_large", True)] * 2


# --- while pipeline code runs -----------------------------------------------------------------------------------------


def test_cancel_reaches_a_run_while_it_runs(worker: NodeEnd) -> None:
    """Run.check raises soon after CANCEL, and the outcome is cancelled."""
    worker.train("train_until_cancelled")
    assert worker.until(wire.Log).message == "waiting"

    worker.send(wire.Cancel(1, "somebody asked"))
    outcome = worker.until(wire.Results).outcomes[0]

    assert (outcome.status, outcome.error and outcome.error.code) == ("cancelled", "cancelled")


def test_cancel_reaches_a_batch_that_waits(worker: NodeEnd) -> None:
    """A batch that was cancelled before its turn runs nothing; CANCEL for one that is over, or never was, is ignored."""
    worker.start("sleep", '{"seconds":0.3}')
    worker.start("add", '{"a":1}', '{"a":2}')
    for batch in (2, 77):
        worker.send(wire.Cancel(batch, "no longer wanted"))

    first, second = worker.until(wire.Results), worker.until(wire.Results)
    worker.send(wire.Cancel(1, "too late"))

    assert [first.batch, second.batch] == [1, 2]
    assert [o.status for o in second.outcomes] == ["cancelled", "cancelled"]
    assert worker.execute("add", '{"a":1}') == [2]


def test_a_run_asks_for_an_artifact_and_waits_for_the_answer(worker: NodeEnd, tmp_path: Path) -> None:
    """CALL names run, model and version (0 is the champion); the answer's folder or error reaches the run."""
    worker.train("train_from", '{"model":"other","version":0}', name="a", run="run-1")
    call = worker.until(wire.Call)
    assert (call.run, call.method, call.params) == ("run-1", "artifact", {"model": "other", "version": "0"})
    worker.send(wire.Answer(call.call + 1000, value="for nobody"))
    worker.send(wire.Answer(call.call, value=str(tmp_path)))
    assert worker.until(wire.Results).outcomes[0].status == "ok"
    assert worker.lines()[-1][1] == str(tmp_path)

    worker.train("train_from", '{"model":"other","version":3}', name="b")
    call = worker.until(wire.Call)
    assert call.params["version"] == "3"
    worker.send(wire.Answer(call.call, error=wire.WireError("no_model", "tenant acme has no version 3")))
    refused = worker.until(wire.Results).outcomes[0].error

    assert refused is not None
    assert refused.message.startswith("CallError: tenant acme has no version 3")


def test_a_run_that_waits_for_an_answer_can_be_cancelled(worker: NodeEnd) -> None:
    """CANCEL ends the wait for ANSWER."""
    batch = 1
    worker.train("train_from", '{"model":"other","version":1}')
    worker.until(wire.Call)

    worker.send(wire.Cancel(batch, "stop"))

    assert worker.until(wire.Results).outcomes[0].status == "cancelled"


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_drain(worker: NodeEnd, number: signal.Signals) -> None:
    """SIGTERM and SIGINT finish what was sent, say BYE and end with exit code 0."""
    worker.start("sleep", '{"seconds":0.3}')
    time.sleep(0.1)

    os.kill(worker.process.pid, number)

    assert worker.until(wire.Results).outcomes[0].status == "ok"
    assert worker.until(wire.Bye) == wire.Bye(f"signal {number.name}")
    assert worker.process.wait(WAIT_S) == 0


def test_drain_finishes_all_that_was_sent_before_it(worker: NodeEnd) -> None:
    """Three batches and DRAIN in one go: three RESULTS, then BYE."""
    for _ in range(3):
        worker.start("sleep", '{"seconds":0.05}')

    worker.drain()

    assert [m.batch for m in worker.seen if isinstance(m, wire.Results)] == [1, 2, 3]


def test_the_end_of_the_socket_ends_the_worker_at_once(worker: NodeEnd) -> None:
    """Also in the middle of a call: nobody is left to answer."""
    worker.start("sleep", '{"seconds":60}')
    time.sleep(0.1)
    begun = time.monotonic()

    worker.socket.close()

    assert worker.process.wait(WAIT_S) == 3
    assert time.monotonic() - begun < 5


def test_threads_and_exit_handlers_do_not_keep_a_drained_worker(start_worker: Start) -> None:
    """A thread of pipeline code that never ends delays the end by a few seconds, not for ever."""
    code = """
        import atexit, threading, time
        threading.Thread(target=time.sleep, args=(600,)).start()
    """
    worker = start_worker(code).ready()

    assert worker.drain() == wire.Bye("drained")


def test_nothing_follows_bye(start_worker: Start) -> None:
    """What exit handlers print is plain output; BYE is the last frame."""
    worker = start_worker("import atexit\natexit.register(print, 'at exit')").ready()

    worker.drain()

    assert worker.read() is None
    assert "at exit" in worker.output.read_text()


def test_a_frame_of_an_unknown_kind_ends_the_worker(worker: NodeEnd) -> None:
    """What is no message of this wire version is never guessed at; the reason is on standard error."""
    worker.socket.sendall(wire.frame(b"\x81\xa4type\xa7UNKNOWN"))

    assert worker.process.wait(WAIT_S) == 4
    assert "the node sent what is no message" in worker.output.read_text()


@pytest.mark.parametrize(
    ("code", "error_code", "sentence"),
    [
        ("import nowhere_at_all", "import_failed", "module pipelines cannot be imported: ModuleNotFoundError: No module named"),
        ("def f(:", "import_failed", "SyntaxError"),
        ("import sys; sys.exit(3)", "import_failed", "SystemExit: 3"),
        ("@ms.inference\ndef f(*a: int) -> int: ...", "bad_pipeline", "parameter *a has no name"),
        ("@ms.inference\ndef f(a: 'Nowhere') -> int: ...", "bad_pipeline", "name 'Nowhere' is not defined"),
        ("@ms.inference\ndef f() -> int: ...\n@ms.inference(name='f')\ndef g() -> int: ...", "bad_pipeline", "two pipelines are named f"),
    ],
)
def test_a_release_that_cannot_be_imported_says_so_and_ends(start_worker: Start, code: str, error_code: str, sentence: str) -> None:
    """READY carries the error with the traceback; BYE follows and the exit code is 1."""
    worker = start_worker("print('before')\n" + code)

    error = worker.until(wire.Ready).error
    bye = worker.until(wire.Bye)

    assert error is not None
    assert error.code == bye.reason == error_code
    assert sentence in error.message
    assert worker.process.wait(WAIT_S) == 1
    if "SyntaxError" not in sentence:
        assert ("stdout", "before", ()) in worker.lines()


def test_a_module_that_is_missing_is_an_import_failure(start_worker: Start) -> None:
    """The manifest's modules are imported one by one; the one that is missing is named."""
    error = start_worker(CODE, modules=["pipelines", "not_there"]).until(wire.Ready).error

    assert error is not None
    assert "module not_there cannot be imported" in error.message


def test_the_death_of_the_parent_ends_the_worker(tmp_path: Path) -> None:
    """Also where the socket stays open in another process: the kernel ends the worker with the node that started it."""
    (tmp_path / "pipelines.py").write_text("")
    (tmp_path / "manifest.json").write_text('{"package":"demo","version":"1.0.0","build_id":"b","modules":["pipelines"]}')
    ours, theirs = socket.socketpair()
    fd = theirs.fileno()
    command = [sys.executable, "-I", "-m", "millstream.worker", "--fd", str(fd), "--path", str(tmp_path)]
    command += ["--manifest", str(tmp_path / "manifest.json")]
    parent = subprocess.Popen([sys.executable, "-c", f"import subprocess; subprocess.run({command}, pass_fds=[{fd}])"], pass_fds=[fd])
    theirs.close()
    ours.settimeout(WAIT_S)
    splitter = wire.Splitter()
    while not any(isinstance(wire.decode_from_worker(body), wire.Ready) for body in splitter.feed(ours.recv(65536))):
        pass

    parent.kill()
    parent.wait(WAIT_S)

    assert ours.recv(65536) == b""
    ours.close()


def test_the_worker_is_the_first_to_die_when_memory_runs_out(worker: NodeEnd) -> None:
    """The kernel takes workers before the node."""
    assert Path(f"/proc/{worker.process.pid}/oom_score_adj").read_text().strip() == "900"
