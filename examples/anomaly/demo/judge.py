"""The rules of the checker, without any process or file: what was sent against what lies on the output topic.

What is counted, exactly:

lost            a request that was acknowledged and has no result.
duplicated      results beyond the first for one request.
stray           results that fit no request: an unknown id, or an id whose result names another record than the one acknowledged.
failed          requests whose result has another status than ok; `failed_during_deploy` are those sent while the deployment ran.
wrong_release   ok results whose verdict was not made by the release of the tenant's latest finished training. The release is
                told from what pipeline code wrote into `made_with` (library versions, Python, prefix, number of features),
                never from the node's stamp. A training has finished when its answer lies on the output topic (that answer's
                append time). A request that was sent before a retraining finished may be answered by the model before it,
                and by the new one if its answer came after the retraining's. One that was sent later must be answered by the
                new one, except in the first second (`SWITCH_MS`), in which nodes may still switch (DESIGN §11); those
                answers are counted apart, as `switching`.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from blackbox.matching import Coordinates, match

SWITCH_MS = 1000


@dataclass(frozen=True)
class Sent:
    """One acknowledged request, as the sender wrote it down; times are Unix milliseconds."""

    id: str
    tenant: str
    topic: str
    partition: int
    offset: int
    sent_ms: int
    acked_ms: int
    timestamp: str = ""
    release: str = ""
    """Of a training request: the release that was current when it was sent."""
    params: str = ""
    """Of a training request: its parameters as JSON."""

    @property
    def where(self) -> Coordinates:
        return self.topic, self.partition, self.offset


@dataclass(frozen=True)
class Answer:
    """One result record of the output topic; `made_with` is empty where the result holds no verdict."""

    id: str
    status: str
    record: Coordinates
    append_ms: int
    place: tuple[int, int]
    """Partition and offset on the output topic."""
    error_code: str = ""
    made_with: Mapping[str, object] = field(default_factory=dict)
    anomaly: bool = False


@dataclass(frozen=True)
class Expected:
    """What `made_with` is for one release, read from the published wheel and the environment's folder, not from answers."""

    release: str
    numpy: str
    sklearn: str
    python: str
    features: int
    build_id: str

    def fits(self, made_with: Mapping[str, object]) -> bool:
        python = str(made_with.get("python"))
        return (
            made_with.get("numpy") == self.numpy
            and made_with.get("sklearn") == self.sklearn
            and (python == self.python or python.startswith(self.python + "."))
            and made_with.get("features") == self.features
            and self.build_id in str(made_with.get("prefix")).split("/")
        )


@dataclass
class Tally:
    """The counts of one tenant, or of all together."""

    requests: int = 0
    results: int = 0
    lost: int = 0
    duplicated: int = 0
    failed: int = 0
    wrong_release: int = 0
    switching: int = 0
    answered_by: dict[str, int] = field(default_factory=dict)


@dataclass
class Verdict:
    """What the checker found; `examples` name some requests behind every figure that is not 0."""

    total: Tally
    tenants: dict[str, Tally]
    stray: int
    failed_during_deploy: int
    requests_during_deploy: int
    unanswered_at_kill: int
    """Requests that were acknowledged before the kill and have no result that was visible before it."""
    interleaved: dict[str, int]
    """Answers by release from the first answer of the new release to the last answer before the kill."""
    switches: int
    """How often the release changed from one of those answers to the next."""
    flagged: dict[str, list[str]]
    """By tenant, the timestamps that were flagged, once each, by the first answer of each reading."""
    examples: dict[str, list[str]]


def right_releases(request: Sent, answer: Answer, finished: list[tuple[int, str]]) -> tuple[set[str], bool]:
    """The releases that may have answered a request, by the tenant's finished trainings (append time, release), oldest first.

    Returns:
        The releases, and whether the second entry holds only because a switch was under way.
    """
    before = [release for at_ms, release in finished if at_ms < request.sent_ms]
    between = {release for at_ms, release in finished if request.sent_ms <= at_ms <= answer.append_ms}
    right = between | set(before[-1:])
    recent = any(request.sent_ms - SWITCH_MS <= at_ms < request.sent_ms for at_ms, _ in finished)
    if recent:
        settled = [release for at_ms, release in finished if at_ms < request.sent_ms - SWITCH_MS]
        earlier = set(settled[-1:]) - right
        return right | earlier, bool(earlier)
    return right, False


def judge(
    requests: list[Sent],
    answers: list[Answer],
    finished: Mapping[str, list[tuple[int, str]]],
    releases: list[Expected],
    deploy_ms: int,
    killed_ms: int,
) -> Verdict:
    """Judge the whole stream.

    Args:
        finished: by tenant, its finished trainings as (append time of the answer, release).
        deploy_ms: when the deployment of the new release was started (Unix milliseconds); it is over with its first answer.
        killed_ms: when the node was killed.
    """
    found, stray = match({one.id: one.where for one in requests}, answers)
    tenants: dict[str, Tally] = defaultdict(Tally)
    examples: dict[str, list[str]] = defaultdict(list)
    flagged: dict[str, dict[str, bool]] = defaultdict(dict)
    timeline: list[tuple[int, tuple[int, int], str]] = []
    failed_ms: list[int] = []
    for request in requests:
        tally = tenants[request.tenant]
        tally.requests += 1
        several = found.get(request.id, [])
        tally.results += len(several)
        if not several:
            tally.lost += 1
            _name(examples, "lost", request, "no result")
            continue
        if len(several) > 1:
            tally.duplicated += len(several) - 1
            _name(examples, "duplicated", request, f"{len(several)} results at {[answer.place for answer in several]}")
        first = several[0]
        if first.status != "ok":
            tally.failed += 1
            failed_ms.append(request.sent_ms)
            _name(examples, "failed", request, f"{first.status}/{first.error_code}")
            continue
        made_by = next((one.release for one in releases if one.fits(first.made_with)), "")
        right, switching = right_releases(request, first, finished.get(request.tenant, []))
        tally.answered_by[made_by] = tally.answered_by.get(made_by, 0) + 1
        if made_by not in right:
            tally.wrong_release += 1
            _name(examples, "wrong_release", request, f"made with {dict(first.made_with)}, right is {sorted(right)}")
        elif switching and made_by != finished[request.tenant][-1][1]:
            tally.switching += 1
        timeline.append((first.append_ms, first.place, made_by))
        flagged[request.tenant].setdefault(request.timestamp, first.anomaly)
    for answer in stray[:5]:
        examples["stray"].append(f"id {answer.id} names record {answer.record}")
    interleaved, switches, first_new_ms = _interleaved(timeline, releases[-1].release, killed_ms)
    return Verdict(
        total=_sum(tenants.values()),
        tenants=dict(tenants),
        stray=len(stray),
        failed_during_deploy=sum(deploy_ms <= at_ms and (not first_new_ms or at_ms <= first_new_ms) for at_ms in failed_ms),
        requests_during_deploy=sum(deploy_ms <= one.sent_ms and one.acked_ms <= first_new_ms for one in requests),
        unanswered_at_kill=sum(
            one.acked_ms <= killed_ms and not any(answer.append_ms < killed_ms for answer in found.get(one.id, [])) for one in requests
        ),
        interleaved=interleaved,
        switches=switches,
        flagged={tenant: [at for at, is_flagged in marks.items() if is_flagged] for tenant, marks in flagged.items()},
        examples=dict(examples),
    )


def _interleaved(timeline: list[tuple[int, tuple[int, int], str]], new: str, killed_ms: int) -> tuple[dict[str, int], int, int]:
    """Count answers by release from the new release's first to the kill; also when that first answer came (0: never)."""
    timeline.sort()
    began = next((at_ms for at_ms, _, release in timeline if release == new), 0)
    both = [release for at_ms, _, release in timeline if began and began <= at_ms < killed_ms]
    return dict(Counter(both)), sum(a != b for a, b in itertools.pairwise(both)), began


def _sum(tallies: Iterable[Tally]) -> Tally:
    total = Tally()
    for one in tallies:
        total.requests += one.requests
        total.results += one.results
        total.lost += one.lost
        total.duplicated += one.duplicated
        total.failed += one.failed
        total.wrong_release += one.wrong_release
        total.switching += one.switching
        total.answered_by = dict(Counter(total.answered_by) + Counter(one.answered_by))
    return total


def _name(examples: dict[str, list[str]], figure: str, request: Sent, why: str) -> None:
    if len(examples[figure]) < 5:
        examples[figure].append(f"{request.id} ({request.tenant}, {request.topic}/{request.partition}/{request.offset}): {why}")
