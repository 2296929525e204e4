"""The checker of the harness, pure: what was asked, what was killed and what lies on the output topic, in; counts, out.

lost            an acknowledged request without a result.
duplicated      results beyond the first of a request.
ok              requests whose first result is ok; `expected_ok` of them should be, so an innocent request that ended dead shows.
wrong_answers   first results that are ok with another value, nonce or release than the parameters demand; first results of bad
                rows and of rows that kill their worker that have another status or code than they must; and results that fit no
                request at all.
kills_with_work_in_flight
                kills at whose moment more requests were acknowledged than answers were visible.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from blackbox.matching import Coordinates, match

TOLERANCE = 1e-6
"""Expected values are whole numbers below 1e8; a fitted line misses them by about 1e-10 of their size."""


@dataclass(frozen=True)
class Asked:
    """One request and what must become of it."""

    id: str
    tenant: str
    kind: str
    status: str
    code: str
    value: float
    nonce: int
    release: int


@dataclass(frozen=True)
class Acked:
    """Where an acknowledged request lies, and when the acknowledgement was read (Unix ms)."""

    where: Coordinates
    acked_ms: int


@dataclass(frozen=True)
class Result:
    """One record of the output topic; `reply` is the row's reply, or the body of a training's result."""

    id: str
    status: str
    code: str
    record: Coordinates
    append_ms: int
    place: tuple[int, int]
    reply: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Killed:
    """One kill that was carried out."""

    at_ms: int
    target: Literal["worker", "node", "training"]
    point: str = ""


@dataclass
class Report:
    """The figures of a run, in the order in which they are printed, and what stands behind those that are wrong."""

    requests: int = 0
    results: int = 0
    lost: int = 0
    duplicated: int = 0
    ok: int = 0
    expected_ok: int = 0
    wrong_answers: int = 0
    worker_kills: int = 0
    node_kills: int = 0
    kills_with_work_in_flight: int = 0
    seed: int = 0
    seconds: float = 0.0
    examples: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "examples"}

    @property
    def kills(self) -> int:
        return self.worker_kills + self.node_kills

    def faults(self, share_in_flight: float = 0.9) -> list[str]:
        """Every figure that is not what it must be, in words."""
        found = [f"{name} is {value}" for name in ("lost", "duplicated", "wrong_answers") if (value := getattr(self, name))]
        if self.ok != self.expected_ok:
            found.append(f"ok is {self.ok}, expected {self.expected_ok}")
        if self.kills_with_work_in_flight < share_in_flight * self.kills:
            found.append(f"only {self.kills_with_work_in_flight} of {self.kills} kills had work in flight")
        return found


def judge(asked: Sequence[Asked], acked: Mapping[str, Acked], results: Sequence[Result], killed: Sequence[Killed]) -> Report:
    """Count. Requests that were never acknowledged are not counted: nobody was promised anything."""
    promised = [one for one in asked if one.id in acked]
    found, stray = match({one.id: acked[one.id].where for one in promised}, results)
    report = Report(
        requests=len(promised),
        expected_ok=sum(one.status == "ok" for one in promised),
        wrong_answers=len(stray),
        worker_kills=sum(kill.target != "node" for kill in killed),
        node_kills=sum(kill.target == "node" for kill in killed),
    )
    report.examples += [f"stray: {result.id} names {result.record}" for result in stray[:5]]
    for one in promised:
        several = found.get(one.id, [])
        report.results += len(several)
        if not several:
            report.lost += 1
            _name(report, "lost", one, acked[one.id].where)
            continue
        if len(several) > 1:
            report.duplicated += len(several) - 1
            _name(report, "duplicated", one, [result.place for result in several])
        first = several[0]
        report.ok += first.status == "ok"
        if not is_right(one, first):
            report.wrong_answers += 1
            _name(report, "wrong", one, first)
        elif first.status != one.status:
            _name(report, "not ok", one, first)
    report.kills_with_work_in_flight = in_flight_at([kill.at_ms for kill in killed], acked, found)
    return report


def is_right(one: Asked, result: Result) -> bool:
    """Whether a result is what the request's parameters demand; an innocent request that failed is no wrong answer, but not ok."""
    if one.status != "ok":
        return (result.status, result.code) == (one.status, one.code)
    if result.status != "ok":
        return True
    if one.kind == "training":
        return result.reply.get("model") == f"{one.tenant}.line" and isinstance(result.reply.get("version"), int)
    value = result.reply.get("y")
    close = isinstance(value, (int, float)) and abs(value - one.value) <= TOLERANCE * max(1.0, abs(one.value))
    return close and result.reply.get("nonce") == one.nonce and result.reply.get("release") == one.release


def in_flight_at(moments_ms: Sequence[int], acked: Mapping[str, Acked], found: Mapping[str, Sequence[Result]]) -> int:
    """At how many moments more requests had been acknowledged than answered; an answer counts from its append time on."""
    acknowledged = sorted(one.acked_ms for one in acked.values())
    answered = sorted(several[0].append_ms for several in found.values())
    return sum(bisect_right(acknowledged, at_ms) > bisect_right(answered, at_ms) for at_ms in moments_ms)


def judge_trainings(
    asked: Sequence[Asked], found: Mapping[str, Sequence[Result]], runs: Mapping[str, Mapping[str, object]], killed: Sequence[str]
) -> list[str]:
    """What is wrong with the trainings: each leaves one succeeded run and one version of its own; a killed one took another attempt.

    Args:
        found: results by request id.
        runs: the platform's runs by run id, with `state`, `attempt`, `model_version` and the `run` that a result names.
        killed: ids of the training requests whose process was killed.
    """
    faults = []
    versions: dict[tuple[str, object], str] = {}
    for one in asked:
        several = found.get(one.id, [])
        if len(several) != 1 or several[0].status != "ok":
            faults.append(f"{one.id} has {len(several)} results, the first {several[0].status if several else 'missing'}")
            continue
        reply = several[0].reply
        run = runs.get(str(reply.get("run")), {})
        if (run.get("state"), run.get("model_version")) != ("SUCCEEDED", reply.get("version")):
            faults.append(f"{one.id}: its run is {run.get('state')} with version {run.get('model_version')}, not {reply.get('version')}")
        same = versions.setdefault((one.tenant, reply.get("version")), one.id)
        if same != one.id:
            faults.append(f"{one.id} and {same} both name version {reply.get('version')} of {one.tenant}")
        attempt = run.get("attempt")
        if one.id in killed and not (isinstance(attempt, int) and attempt >= 2):
            faults.append(f"{one.id} was killed but its run says attempt {attempt}")
    return faults


def _name(report: Report, what: str, one: Asked, seen: object) -> None:
    if len(report.examples) < 20:
        report.examples.append(f"{what}: {one.id} ({one.kind}, expected {one.status} {one.value}): {seen}")
