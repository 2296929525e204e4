"""Makes results of outcomes and hands them, with the offsets they finish, to the committer.

The one place of a node where a request's end is decided by the rules of `core.retry` and written as `core.result`; it also
writes the log lines by which one id can be followed. Lives on the loop.

Longer than other modules: each way in which a request ends, side by side.
"""

from __future__ import annotations

import fnmatch
import shlex
import time
from collections.abc import Callable, Sequence

import msgspec
from millstream import wire

from millstream_server.core.echo import answer_record
from millstream_server.core.errors import CODES, Invalid
from millstream_server.core.log import OUTPUT, Outgoing, Record
from millstream_server.core.logbook import Line
from millstream_server.core.parameter_advice import UNKNOWN_FIELD, advice
from millstream_server.core.request import Origin
from millstream_server.core.result import Durations, RecordRef, Result, ResultError, Status, decode_result, encode_result
from millstream_server.core.retry import DELAYS_S, Cause, dead_letter, next_try, replayed, retry_record
from millstream_server.core.routing import Refusal
from millstream_server.core.status import UNDECODABLE
from millstream_server.core.work import Work, held_bytes
from millstream_server.node.committer import CommitterThread
from millstream_server.node.counts import Counts, moved_to
from millstream_server.node.finish import Finish
from millstream_server.node.logbook import Logbook, entry
from millstream_server.node.model_memory import ModelMark
from millstream_server.node.pool import Pool
from millstream_server.node.rates import Rates
from millstream_server.node.worker import Batch, Worker

_STATUSES: dict[str, Status] = {"ok": "ok", "invalid": "invalid", "failed": "failed", "cancelled": "cancelled"}


class Answerer:
    """Turns outcomes into finished records; implements `pool.Answers`."""

    def __init__(
        self,
        node: str,
        committer: CommitterThread,
        logbook: Logbook,
        rates: Rates,
        counts: Counts,
        clock_ms: Callable[[], int],
        *,
        max_attempts: int,
        reply_topics: Sequence[str],
        listener: PoolEvents,
    ) -> None:
        self._node = node
        self._committer = committer
        self._logbook = logbook
        self._rates = rates
        self._counts = counts
        self._clock_ms = clock_ms
        self._max_attempts = max_attempts
        self._reply_topics = reply_topics
        self._listener = listener

    # --- outcomes that intake decides -----------------------------------------------------------------------------------

    def may_reply_to(self, topic: str) -> bool:
        return not topic or any(fnmatch.fnmatchcase(topic, pattern) for pattern in self._reply_topics)

    def refuse(self, work: Work, refusal: Refusal, path: str = "") -> None:
        """Answer a request that cannot be routed."""
        error = ResultError(refusal.code, refusal.message, path, refusal.mend or mend_of(refusal.code, work.id, path=path))
        status: Status = "failed" if refusal.status == "failed" else "invalid"
        self._end([work], status, error)

    def bury(self, record: Record, epoch: int, origin: Origin, message: str) -> None:
        """A record that nobody can be answered for: its bytes go to the dead-letter topic, untouched."""
        letter = dead_letter(
            value=record.value, key=record.key, headers=record.headers, origin=origin, code="undecodable", message=message, attempts=0
        )
        self._logbook.write(entry(event="dead_letter", level="warning", message=f"undecodable: {message}", extra={"record": _at(origin)}))
        finish = Finish(record.topic, record.partition, record.offset, (letter,), held_bytes(record), "", epoch, outcome=("", UNDECODABLE))
        self._committer.submit([finish], None)

    def give_up(self, work: Work, code: str, message: str) -> None:
        """A request that is not run any more: its one result and a dead letter."""
        self._end([work], "dead", ResultError(code, message, "", mend_of(code, work.id)))

    def finish_silently(self, *works: Work) -> None:
        """Their records are taken care of elsewhere (a run, another node): each offset is finished without a result of its own."""
        self._committer.submit([self._finish(work, ()) for work in works], None)

    def move(self, moved: Sequence[tuple[Work, Outgoing]], why: str) -> None:
        """Requests that go on in another topic, the same for all, in the transaction that finishes their records here."""
        for work, _ in moved:
            work.done = True
        outcome = ("", moved_to(moved[0][1].topic))
        self._logbook.write(
            entry("moved", f"{len(moved)} {why}", requests=tuple(w.id for w, _ in moved), pipeline=moved[0][0].pipeline, level="info")
        )
        self._committer.submit([self._finish(work, (again,), "", outcome) for work, again in moved], None, moved=True)

    # --- pool.Answers -------------------------------------------------------------------------------------------------

    def batch_sent(self, pool: Pool, worker: Worker, batch: Batch) -> None:
        name, model, version = batch.lane.key
        works = batch.works
        self._logbook.write(
            entry(
                event="dispatch",
                requests=tuple(w.id for w in works),
                pipeline=name,
                model=model,
                model_version=version,
                release=pool.release,
                worker=worker.pid,
                attempt=works[0].attempt,
                message=f"batch {batch.number}, {len(works)} request{'s' * (len(works) != 1)}" + (", alone" if worker.exclusive else ""),
            )
        )

    def batch_answered(self, pool: Pool, worker: Worker, batch: Batch, results: wire.Results) -> None:
        now_ms = self._clock_ms()
        release = pool.release
        label, build_id = release.label, release.build_id
        _, model, version = batch.lane.key
        sent_ms = now_ms - int((time.monotonic() - batch.sent_s) * 1000)
        run_s = round(results.run_s, 6)
        finishes: list[Finish] = []
        outcomes = {status: (label, status) for status in _STATUSES}  # one for all results of a kind: they are counted by the batch
        failed = 0
        for work, outcome in zip(batch.works, results.outcomes, strict=True):
            if work.done:
                continue
            work.done = True
            error = outcome.error
            said = None
            if error is not None:
                failed += 1
                again = self._try_again(work, error, now_ms)
                if again is not None:
                    finishes.append(self._finish(work, (again,), build_id, (label, moved_to(again.topic))))
                    continue
                # By its version: another release of the package may be current, with other parameters.
                message = error.message
                if error.code == "bad_parameters":
                    message += advice(batch.lane.spec.parameters, message, error.path)
                said = ResultError(error.code, message, error.path, mend_of(error.code, work.id, label, error.path, message))
            origin = work.origin
            result = Result(
                work.id,
                work.pipeline,
                work.tenant,
                _STATUSES[outcome.status],
                RecordRef(origin.topic, origin.partition, origin.offset),
                self._node,
                work.attempts + 1,
                msgspec.Raw(outcome.body) if said is None else msgspec.UNSET,
                said,
                label,
                build_id,
                model,
                version,
                Durations((sent_ms - origin.append_ms) / 1000 if sent_ms > origin.append_ms else 0.0, work.load_s, run_s),
                replay_of=replayed(work.headers) if work.headers else None,
            )
            finishes.append(self._finish(work, (self._record(work, encode_result(result)),), build_id, outcomes[outcome.status]))
        if failed:
            self._log_errors(pool, worker, batch, results)
        pool.uncommitted += len(finishes)
        self._rates.answered(pool.release.build_id, len(finishes))
        self._committer.submit(finishes, pool)

    def _try_again(self, work: Work, error: wire.WireError, now_ms: int) -> Outgoing | None:
        """The record that carries a request to its next try after an error that allows one, while attempts remain."""
        if not error.retryable:
            return None
        cause: Cause = "crowded_out" if error.code == "result_too_large" else "retryable"
        tried = next_try(work, cause, self._max_attempts)
        if tried is None:
            return None
        again = retry_record(work, attempts=tried[0], alone=tried[1], now_ms=now_ms, delayed=cause == "retryable")
        if work.deadline_ms and work.deadline_ms <= now_ms + DELAYS_S[again.topic] * 1000:
            return None  # it would only expire there, and later than it must
        return again

    def batch_lost(self, pool: Pool, worker: Worker, works: list[Work], cause: Cause, detail: str) -> None:
        now_ms = self._clock_ms()
        again: list[Finish] = []
        dead: list[Work] = []
        for work in works:
            tried = next_try(work, cause, self._max_attempts)
            if tried is None:
                dead.append(work)
                continue
            work.done = True
            carried = retry_record(work, attempts=tried[0], alone=tried[1], now_ms=now_ms)
            again.append(self._finish(work, (carried,), outcome=(pool.release.label, moved_to(carried.topic))))
        if again:
            self._logbook.write(
                entry(
                    event="retry",
                    level="warning",
                    requests=tuple(w.id for w in works if w not in dead),
                    release=pool.release,
                    worker=worker.pid,
                    attempt=works[0].attempt,
                    message=f"tried again alone: its worker ended, {detail}",
                )
            )
            self._committer.submit(again, None)
        if dead:
            error = ResultError(
                cause,
                f"it ended its worker {self._max_attempts} times running alone; the last time {detail}",
                "",
                mend_of(cause, dead[0].id),
            )
            self._end(dead, "dead", error, pool)
            self._rates.error(pool.release.build_id, f"{dead[0].pipeline}: {detail}", mend_of(cause, dead[0].id))

    def route_anew(self, works: list[Work]) -> None:
        self._listener.route_anew(works)

    def expire(self, pool: Pool | None, works: list[Work]) -> None:
        now_ms = self._clock_ms()
        for work in works:
            late = (now_ms - work.origin.append_ms) / 1000
            message = f"no result within the {(work.deadline_ms - work.origin.append_ms) / 1000:g} s it was given; {late:.1f} s have passed"
            self._end([work], "expired", ResultError("expired", message, "", mend_of("expired", work.id)), pool)

    def author_line(self, pool: Pool, worker: Worker, log: wire.Log) -> None:
        batch = worker.batches[0] if worker.batches else None
        self._logbook.write(self._author(pool, worker, batch, log.level, log.message, tuple(log.requests), log.logger))

    def output_line(self, pool: Pool, worker: Worker, line: str) -> None:
        batch = worker.batches[0] if worker.batches else None
        running = tuple(w.id for w in batch.works) if batch is not None else ()
        self._logbook.write(self._author(pool, worker, batch, "info", line, running, "stdout"))

    def worker_started(self, pool: Pool, worker: Worker) -> None:
        self._worker_line(pool, worker, "worker_started", f"pid {worker.pid}")

    def worker_ready(self, pool: Pool, worker: Worker, seconds: float) -> None:
        started = time.monotonic() - worker.started_s
        self._worker_line(pool, worker, "worker_ready", f"pid {worker.pid} after {started:.2f} s, {seconds:.2f} s of it imports")

    def worker_ended(self, pool: Pool, worker: Worker, cause: str, expected: bool) -> None:
        self._worker_line(pool, worker, "worker_ended", f"pid {worker.pid}: {cause}", "info" if expected else "warning")
        if not expected:
            self._counts.worker_deaths[pool.release.label] += 1
            self._rates.error(
                pool.release.build_id, f"worker {worker.pid}: {cause}", "see: millstream logs --release " + pool.release.label
            )

    def pool_ready(self, pool: Pool) -> None:
        self._listener.pool_ready(pool)

    def pool_broken(self, pool: Pool, reason: str) -> None:
        self._worker_line(pool, None, "release_broken", reason, "error")
        self._rates.error(pool.release.build_id, reason, mend_of("release_unavailable", package=pool.release.label))
        self._listener.pool_broken(pool, reason)

    def pool_asleep(self, pool: Pool) -> None:
        self._worker_line(pool, None, "release_asleep", "nobody called it for long: its workers end, its next request starts them again")

    def model_loaded(self, pool: Pool, worker: Worker, loaded: wire.Loaded) -> None:
        self._logbook.write(
            entry(
                event="model_loaded",
                model=loaded.model,
                model_version=loaded.version,
                release=pool.release,
                worker=worker.pid,
                duration_s=loaded.seconds,
                message=f"into worker {worker.pid}",
            )
        )
        self._counts.model_loads[pool.release.label] += 1
        self._listener.model_loaded(pool, loaded.model, loaded.version)

    def model_not_in_reserve(self, pool: Pool, worker: Worker, mark: ModelMark, reason: str) -> None:
        key, version = mark
        self._logbook.write(
            entry(
                event="model_not_in_reserve",
                level="warning",
                model=key,
                model_version=version,
                release=pool.release,
                worker=worker.pid,
                message=f"worker {worker.pid}, a spare, does without it, others answer: {reason}",
            )
        )

    def model_unloaded(self, pool: Pool, mark: ModelMark) -> None:
        key, version = mark
        self._logbook.write(
            entry(
                event="model_unloaded",
                model=key,
                model_version=version,
                release=pool.release,
                message="made room for another; its next request loads it again",
            )
        )
        self._counts.model_evictions[pool.release.label] += 1

    def model_unusable(self, pool: Pool, key: str, version: int, code: str, reason: str) -> None:
        self._logbook.write(
            entry(
                event="model_refused",
                level="error",
                model=key,
                model_version=version,
                release=pool.release,
                message=f"{code}: {reason}",
            )
        )
        self._rates.error(pool.release.build_id, f"model {key} v{version}: {reason}", mend_of(code))
        self._listener.model_unusable(pool, key, version, code, reason)

    # --- results ------------------------------------------------------------------------------------------------------

    def _end(self, works: Sequence[Work], status: Status, error: ResultError, pool: Pool | None = None) -> None:
        """End requests without an answer of a pipeline: one result each, and for dead ones their bytes as a dead letter."""
        finishes = []
        outcome = (pool.release.label if pool else "", str(status))
        for work in works:
            work.done = True
            result = Result(
                work.id,
                work.pipeline,
                work.tenant,
                status,
                RecordRef(work.origin.topic, work.origin.partition, work.origin.offset),
                self._node,
                work.attempt,
                msgspec.UNSET,
                error,
                pool.release.label if pool else "",
                pool.release.build_id if pool else "",
                durations=Durations(max(0.0, (self._clock_ms() - work.origin.append_ms) / 1000)),
                replay_of=replayed(work.headers) if work.headers else None,
            )
            records = [self._record(work, encode_result(result))]
            if status == "dead":
                records.append(
                    dead_letter(
                        value=work.value,
                        key=work.origin.key,
                        headers=work.headers,
                        origin=work.origin,
                        code=error.code,
                        message=error.message,
                        attempts=work.attempt,
                    )
                )
            finishes.append(self._finish(work, tuple(records), pool.release.build_id if pool else "", outcome))
        self._logbook.write(
            entry(
                event="result",
                level="warning" if status in ("dead", "failed") else "info",
                requests=tuple(w.id for w in works),
                pipeline=works[0].pipeline,
                tenant=works[0].tenant,
                release=pool.release if pool else None,
                attempt=works[0].attempt,
                message=f"{status} {error.code}: {error.message}",
                extra={"record": _at(works[0].origin)} if len(works) == 1 else None,
            )
        )
        if pool is not None:
            pool.uncommitted += len(finishes)
            self._rates.answered(pool.release.build_id, len(finishes))
        self._committer.submit(finishes, pool)

    def _record(self, work: Work, value: bytes) -> Outgoing:
        """Where a result goes: the reply topic if one was asked, else the output topic, the partition number of its request."""
        return answer_record(value, id=work.id, reply_to=work.reply_to, origin=work.origin, value=work.value, headers=work.headers)

    def _finish(self, work: Work, records: tuple[Outgoing, ...], build_id: str = "", outcome: tuple[str, str] = ("", "")) -> Finish:
        return Finish(
            work.source_topic,
            work.source_partition,
            work.source_offset,
            records,
            work.size_bytes,
            work.id,
            work.epoch,
            work.origin.append_ms,
            build_id,
            outcome,
        )

    def _log_errors(self, pool: Pool, worker: Worker, batch: Batch, results: wire.Results) -> None:
        """One line for each kind of failure in a batch; the author's traceback goes with the first of its kind."""
        kinds: dict[tuple[str, str], tuple[wire.WireError, list[str]]] = {}
        for work, outcome in zip(batch.works, results.outcomes, strict=True):
            if outcome.error is not None:
                kinds.setdefault((outcome.status, outcome.error.code), (outcome.error, []))[1].append(work.id)
        for (status, code), (error, ids) in kinds.items():
            self._logbook.write(
                entry(
                    event="result",
                    level="warning" if status == "failed" else "info",
                    requests=tuple(ids),
                    pipeline=batch.lane.key[0],
                    model=batch.lane.key[1],
                    model_version=batch.lane.key[2],
                    release=pool.release,
                    worker=worker.pid,
                    attempt=batch.works[0].attempt,
                    message=f"{status} {code}: {error.message}",
                    extra={"traceback": error.detail} if error.detail else {},
                )
            )
            if status == "failed":
                self._rates.error(pool.release.build_id, f"{batch.lane.key[0]}: {error.message}", mend_of(code, ids[0]))

    def _author(self, pool: Pool, worker: Worker, batch: Batch | None, level: str, message: str, ids: tuple[str, ...], logger: str) -> Line:
        key = batch.lane.key if batch is not None else ("", "", 0)
        return entry(
            event="author",
            level=level,
            requests=ids,
            pipeline=key[0],
            model=key[1],
            model_version=key[2],
            release=pool.release,
            worker=worker.pid,
            attempt=batch.works[0].attempt if batch is not None else 0,
            message=message,
            extra={"logger": logger} if logger else {},
        )

    def _worker_line(self, pool: Pool, worker: Worker | None, event: str, message: str, level: str = "info") -> None:
        self._logbook.write(
            entry(
                event=event,
                level=level,
                release=pool.release,
                worker=worker.pid if worker else 0,
                message=message,
            )
        )


class PoolEvents:
    """What the node wants to know of its pools beyond answers; the node overrides these."""

    def pool_ready(self, pool: Pool) -> None: ...

    def pool_broken(self, pool: Pool, reason: str) -> None: ...

    def model_loaded(self, pool: Pool, key: str, version: int) -> None: ...

    def model_unusable(self, pool: Pool, key: str, version: int, code: str, reason: str) -> None: ...

    def route_anew(self, works: list[Work]) -> None: ...


def unwritable(record: Outgoing, code: str) -> Outgoing:
    """What is written in the place of a result that the log refuses, with the reason. One that is too large fails where it was to go;
    where even that does not fit, and where the topic cannot be written, the answer stands on the output topic.

    Raises:
        Invalid: record_too_large: nothing smaller can be said, on no other topic.
    """
    value = record.value or b""
    try:
        result = decode_result(value)
    except msgspec.DecodeError:
        # A request on its way to a retry or dead-letter topic: the log has room for all that its door let in, so the door was wider.
        raise _does_not_fit(record) from None
    if code == "record_too_large":
        if result.error and result.error.code == "result_too_large":
            if record.topic == OUTPUT:
                raise _does_not_fit(record)
            return Outgoing(OUTPUT, value, record.key, record.headers, result.record.partition)
        message = f"the result has {len(value):,} bytes, more than a record of {record.topic} may have"
        said = ResultError("result_too_large", message, "", mend_of("result_too_large"))
        small = msgspec.structs.replace(result, status="failed", result=msgspec.UNSET, error=said)
        return msgspec.structs.replace(record, value=encode_result(small))
    place = f"the reply topic {record.topic}" + (f", partition {record.partition}," if record.partition is not None else "")
    if code == "unknown_topic":
        said = ResultError("reply_topic_unavailable", f"{place} does not exist", "", mend_of("reply_topic_unavailable"))
    else:
        mend = "see that its brokers live and that the platform may write to it, or leave reply_to out"
        said = ResultError("reply_topic_unavailable", f"{place} is there, and could not be written for a while", "", mend)
    small = msgspec.structs.replace(result, error=result.error or said)
    return Outgoing(OUTPUT, encode_result(small), record.key, record.headers, result.record.partition)


def _does_not_fit(record: Outgoing) -> Invalid:
    message = f"a record of {len(record.value or b''):,} bytes does not fit {record.topic}: the log took larger ones once"
    return Invalid("record_too_large", message, where=record.topic, mend="raise log.max_record_bytes; see: millstream config show")


_NO_FILE = "; a confined worker sees no file but its own and those in worker.readable_paths: millstream config show"
_NO_NETWORK = "; a confined worker reaches the network where worker.network says so: millstream config show"
_OF_CONFINEMENT = dict.fromkeys(("FileNotFoundError", "PermissionError"), _NO_FILE) | dict.fromkeys(
    ("ConnectionRefusedError", "ConnectionError", "ConnectError", "URLError", "gaierror"), _NO_NETWORK
)
"""By the exception's name: what may stand behind it that the author cannot see."""


def mend_of(code: str, request: str = "ID", package: str = "", path: str = "", message: str = "") -> str:
    """The general mend of a code, its placeholders filled with the case at hand so that it can be pasted."""
    known = CODES.get(code)
    if known is None:
        return ""
    mend = known.mend.replace(" ID", f" {shlex.quote(request)}")
    mend = mend.replace("show PACKAGE", f"show {package}" if package else "list")
    if UNKNOWN_FIELD in message:
        mend = mend.replace("correct the value at the path", "remove or rename the path")
    if code == "pipeline_raised":
        mend += _OF_CONFINEMENT.get(message.partition(":")[0], "")
    return mend.replace("the path", path) if path else mend


def _at(origin: Origin) -> str:
    return f"{origin.topic}/{origin.partition}/{origin.offset}"
