"""`invoke`: one request, and its result when it comes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from millstream_server.cli.frame import Command, Invocation, common, pass_invocation

if TYPE_CHECKING:
    from millstream_server.app import Ports
    from millstream_server.core.log import Appended, Reader
    from millstream_server.core.result import Result
    from millstream_server.core.run import Run

INTERRUPTED = 130
TELL_AFTER_S = 1.0
"""A result that takes longer than this gets progress; until then a line about waiting would only be noise."""
LOOK_EVERY_S = 0.5


@click.command(
    cls=Command,
    examples=[
        (
            "millstream invoke anomaly_train --tenant acme --params '{\"values\": [20.0, 20.5, 19.5]}'",
            "a package of `millstream init anomaly`",
        ),
        ('millstream invoke anomaly_judge --tenant acme --params \'{"reading": {"sensor": "door", "value": 27.5}}\'', ""),
        ("cat reading.json | millstream invoke anomaly_judge --tenant acme --params - --timeout 5", ""),
        ("millstream invoke anomaly_train --tenant acme --params @values.json --no-wait", "then: millstream runs list"),
    ],
)
@click.argument("pipeline")
@click.option("--tenant", default="default", show_default=True, metavar="T", help="Whose model is meant; also the record's key.")
@click.option("--params", default="{}", metavar="JSON|@FILE|-", help="The parameters, a file that holds them, or - for standard input.")
@click.option("--no-wait", is_flag=True, help="Print where the request lies on the log, and end.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="S",
    help="Wait so many seconds; the request stays on the log. [default: wait until it is answered, also for a node to start]",
)
@click.option(
    "--deadline",
    type=click.FloatRange(0, min_open=True),
    metavar="S",
    help="The request's timeout_s: without a result so many seconds after it was sent it is answered `expired`. [default: none]",
)
@click.option("--id", "request_id", metavar="ID", help="The request's id. [default: a new one]")
@click.option("--idempotency-key", default="", metavar="K", help="Of training: the same key and parameters are one run. [default: the id]")
@click.option("--full", is_flag=True, help="Print the whole result: release, model version, durations.")
@common
@pass_invocation
def invoke(
    invocation: Invocation,
    pipeline: str,
    tenant: str,
    params: str,
    no_wait: bool,
    timeout: float | None,
    deadline: float | None,
    request_id: str | None,
    idempotency_key: str,
    full: bool,
) -> int:
    """Put one request on the log and wait for its result.

    The result alone is printed; progress goes to standard error. The exit code is the result's status: 0 ok, 3 invalid, 4 failed,
    dead or cancelled, 5 expired or not there in time. Ctrl-C ends the waiting, not the request.
    """
    from millstream_server.core.ids import new_id
    from millstream_server.core.request import Envelope

    request = Envelope(
        id=request_id or new_id(time.time_ns() // 1_000_000),
        pipeline=pipeline,
        tenant=tenant,
        params=read_params(params, lambda: _shown_by(invocation, pipeline)),
        timeout_s=deadline or 0.0,
        idempotency_key=idempotency_key,
    )
    _check(request)
    with invocation.ports() as ports:
        if no_wait:
            appended = _append(ports, request)
            _tell_if_nobody_works(ports)
            click.echo(msgspec.json.encode({"id": request.id, **msgspec.to_builtins(appended)}).decode())
            return 0
        return _wait(ports, request, timeout, full=full)


def read_params(text: str, shown_by: Callable[[], str]) -> msgspec.Raw:
    """The parameters' JSON, as bytes; `shown_by` names the command that shows what the pipeline takes.

    Raises:
        Invalid: bad_input, saying where it is not JSON.
    """
    from millstream_server.core.errors import Invalid

    where = "--params"
    try:
        if text == "-":
            where, data = "standard input", sys.stdin.buffer.read()
        elif text.startswith("@"):
            where = text[1:]
            data = Path(where).read_bytes()
        else:
            data = text.encode()
    except OSError as error:
        message = f"the parameters cannot be read: {error.strerror}"
        raise Invalid("bad_input", message, where=where, mend="name a file that is there") from None
    try:
        return msgspec.Raw(msgspec.json.encode(msgspec.json.decode(data)) if b"\n" in data else msgspec.json.decode(data, type=msgspec.Raw))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        shown = data[:60].decode("utf-8", "backslashreplace")
        if b": ..." in data:  # a mend of ours was pasted as it stands
            mend = f"write values in the place of the dots; what the pipeline takes: {shown_by()}"
            raise Invalid("bad_input", f"the parameters hold dots where values belong: {shown}", where=where, mend=mend) from None
        mend = "give an object such as '{\"x\": 1}'"
        raise Invalid("bad_input", f"the parameters are not JSON: {error}: {shown}", where=where, mend=mend) from None


def _shown_by(invocation: Invocation, pipeline: str) -> str:
    """The command that shows what a pipeline takes: of its package, where a release that answers has it."""
    from millstream_server.core.errors import MillstreamError

    try:
        with invocation.ports() as ports:
            packages = ports.store.packages()
    except MillstreamError:
        packages = []  # told when it is what stands in the way; here the parameters are
    current = [state.current for state in packages if state.current is not None]
    having = [r.manifest.package for r in current if any(p.name == pipeline for p in r.manifest.pipelines)]
    return f"millstream releases show {having[0]}" if having else "millstream releases list"


def _check(request: object) -> None:
    """Refuse at once what no node could read.

    Raises:
        Invalid: bad_request, with the JSON path.
    """
    from millstream_server.core.errors import Invalid
    from millstream_server.core.request import BadRequest, decode_request

    try:
        decode_request(msgspec.json.encode(request))
    except BadRequest as error:
        raise Invalid("bad_request", error.message, where=error.path, mend="see: millstream invoke --help") from None


def _append(ports: Ports, request: object) -> Appended:
    from millstream_server.core.log import INPUT, Outgoing
    from millstream_server.core.request import Envelope

    assert isinstance(request, Envelope)
    given = {name: value for name, value in msgspec.structs.asdict(request).items() if value not in ("", 0.0)}
    return ports.log.append([Outgoing(INPUT, msgspec.json.encode(given), request.tenant.encode())])[0]


def _tell_if_nobody_works(ports: Ports) -> None:
    from millstream_server import app

    if app.holder(ports.settings) is None:
        start = f"millstream up --data-dir {ports.data_dir}"
        click.echo(f"no node works on {ports.data_dir}, so the request waits on the log; start one: {start}", err=True)


def _wait(ports: Ports, request: object, timeout: float | None, *, full: bool) -> int:
    from millstream_server.core.errors import Unavailable
    from millstream_server.core.log import OUTPUT
    from millstream_server.core.request import Envelope

    assert isinstance(request, Envelope)
    began_s = time.monotonic()
    reader = ports.log.reader([OUTPUT], from_end=True)  # before the append: the answer cannot be missed
    try:
        appended = _append(ports, request)
        _tell_if_nobody_works(ports)
        progress = _Progress(ports, request)
        while True:
            left_s = None if timeout is None else began_s + timeout - time.monotonic()
            if left_s is not None and left_s <= 0:
                message = f"no result of request {request.id} came within {timeout:g} s; it stays on the log"
                raise Unavailable("timeout", message, where=_place(appended), mend=f"millstream logs --request {request.id}")
            result = _look(reader, appended, LOOK_EVERY_S if left_s is None else min(LOOK_EVERY_S, left_s))
            if result is not None:
                progress.end()
                return _print(result, full=full)
            progress.look(time.monotonic() - began_s)
    except KeyboardInterrupt:
        click.echo(f"\nrequest {request.id} stays on the log and will be answered on {OUTPUT}", err=True)
        click.echo(f"  to follow it: millstream logs -f --request {request.id}", err=True)
        return INTERRUPTED
    finally:
        reader.close()


def _look(reader: Reader, appended: Appended, wait_s: float) -> Result | None:
    """The result of the record at these coordinates, if it is among what came."""
    from millstream_server.core.result import decode_result

    alike = any(of.partition == appended.partition for of in reader.positions())
    for record in reader.poll(1000, wait_s):
        if record.value is None or (alike and record.partition != appended.partition):
            continue  # a result lies in the partition of its request, where the output topic has that one
        result = decode_result(record.value)
        if (result.record.topic, result.record.partition, result.record.offset) == (appended.topic, appended.partition, appended.offset):
            return result
    return None


def _print(result: Result, *, full: bool) -> int:
    """The result on standard output, or its error in three parts; the exit code of its status."""
    from millstream_server.cli.main import EXIT_CODES, print_error

    if full:
        click.echo(msgspec.json.encode(result).decode())
    elif result.status == "ok":
        click.echo(bytes(result.result or b"null").decode())
    if result.error is not None:
        path = f", {result.error.path}" if result.error.path else ""
        release = f", {result.release}" if result.release else ""
        label = result.error.code.replace("_", "-")
        mend = result.error.mend or f"millstream logs --request {result.id}"
        print_error(label, result.error.message, f"request {result.id}{path}{release}", mend)
    return EXIT_CODES[result.status]


def _place(appended: Appended) -> str:
    return f"{appended.topic}/{appended.partition}/{appended.offset}"


def _after(seconds: float) -> str:
    if not seconds:
        return ""
    return f" after {seconds:.1f} s" if seconds >= 0.1 else f" after {seconds * 1000:.1f} ms"


class _Progress:
    """What a waiting caller is told: that the request waits, and of a run its state and steps as they change."""

    def __init__(self, ports: Ports, request: object) -> None:
        from millstream_server.cli.printing import LivePhases
        from millstream_server.core.request import Envelope

        assert isinstance(request, Envelope)
        self._ports = ports
        self._request = request
        self._live = LivePhases()
        self._told: set[str] = set()
        self._run = ""
        self._looked_s = 0.0

    def look(self, waited_s: float) -> None:
        """Look whether the request became a run, at most twice a second."""
        if waited_s < TELL_AFTER_S:
            return
        if not self._run:
            self._live.begin("waiting", f"for the result of request {self._request.id}")
        self._live.tick()
        if waited_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = waited_s
            self._look_at_run()

    def end(self) -> None:
        """The result is here; the last step of a run has ended with it."""
        self._live.drop()
        if self._run:
            self._look_at_run()
            self._live.drop()

    def _look_at_run(self) -> None:
        key = self._request.idempotency_key or self._request.id
        found = self._ports.store.run(self._run) if self._run else self._find(key)
        if found is not None:
            self._show(found)

    def _find(self, key: str) -> Run | None:
        runs = self._ports.store.runs(tenant=self._request.tenant, pipeline=self._request.pipeline, limit=50)
        return next((run for run in runs if run.idempotency_key == key), None)

    def _show(self, run: Run) -> None:
        from millstream_server.core.run import ENDED

        if not self._run:
            self._run = run.run
            self._live.drop()
            self._live.say(f"run {run.run}; its log: millstream runs logs {run.run}")
        state = f"  {run.state}" + (f", attempt {run.attempt}" if run.attempt else "")
        if run.state not in ENDED:
            self._say_once(state)
        for step in run.steps:
            if step.status != "running":
                self._say_once(f"  step {step.name}: {step.status}" + _after(step.seconds))
        if run.state in ENDED:  # after the steps that led there
            self._say_once(state)
        running = next((step.name for step in run.steps if step.status == "running"), "")
        words = f"waits for {run.waits_for}" if run.state == "QUEUED" and run.waits_for else f"step {running}" if running else ""
        self._live.begin(run.state, f"attempt {run.attempt or 1} {words}".rstrip())

    def _say_once(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._live.say(line)
