"""`status`: what every node says of itself, on one screen."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from typing import TYPE_CHECKING

import click
import msgspec

from millstream_server.cli.frame import Command, Invocation, as_json, common, pass_invocation
from millstream_server.core.log import INPUT

if TYPE_CHECKING:
    from collections.abc import Collection

    from millstream_server.core.status import NodeStatus, ReleaseStatusRow
    from millstream_server.core.store import NodeRow

WIDTH, HEIGHT = 80, 24
NO_LIMIT = 1_000_000
"""Of lines and characters where no terminal shows them: whoever reads a pipe wants all."""
HEADERS = ("RELEASE", "ENVIRONMENT", "WORKERS", "MODELS", "REQ/S", "P99 MS", "QUEUE")


@click.command(
    cls=Command,
    examples=[
        ("millstream status", ""),
        ("millstream status --watch", "drawn anew every second, until Ctrl-C"),
        ("millstream status --json", ""),
    ],
)
@click.option("-w", "--watch", is_flag=True, help="Draw it anew every second.")
@as_json
@common
@pass_invocation
def status(invocation: Invocation, watch: bool, as_json: bool) -> int:
    """Show what every node does, unhealthy lines first.

    By release: environments, workers, models, requests a second, p99, queue, last error. What is unhealthy says the step that
    mends it. Exit code 5 where no node works.

    \b
    WORKERS       those that take requests; `1 + 1 spare`: one more is imported and waits to take the place of one
    MODELS        models that the release answers for here
    REQ/S P99 MS  answers a second, and time from append to committed answer, over ten seconds
    QUEUE         requests that wait for a worker of the release or are in one
    lag           requests on the log that are not answered yet, by any node; ? while the log does not say

    On Kafka two lines more: the cluster, partitions this node reads, times that partitions came, commits of results over ten
    seconds, and since its start requests that went to another topic (retried, parked, overflowed) or died.
    """
    from millstream_server import app
    from millstream_server.cli.health import living
    from millstream_server.cli.printing import print_json

    with invocation.ports() as ports:
        while True:
            rows, now_ms = ports.store.nodes(), time.time_ns() // 1_000_000
            alive = living(ports, rows, now_ms)
            if as_json:
                nodes = [_as_json(row, gone=row.node not in alive) for row in rows]
                print_json({"data_dir": str(ports.data_dir), "now_ms": now_ms, "nodes": nodes})
            else:
                width, height = shutil.get_terminal_size((WIDTH, HEIGHT)) if sys.stdout.isatty() else (NO_LIMIT, NO_LIMIT)
                held_by = "" if alive else app.holder(ports.settings) or ""
                where = str(ports.data_dir)
                lines = draw(rows, now_ms, alive=alive, where=where, held_by=held_by, width=max(width, 40), height=height - 1)
                click.echo(("\x1b[H\x1b[J" if watch and sys.stdout.isatty() else "") + "\n".join(lines))
            sys.stdout.flush()
            if not watch:
                return 0 if alive else 5
            time.sleep(1)


def _as_json(row: NodeRow, *, gone: bool) -> dict[str, object]:
    from millstream_server.cli.health import troubles
    from millstream_server.core.status import decode_status

    node = decode_status(row.status)
    said: dict[str, object] = msgspec.to_builtins(node)
    found = troubles(node)
    said["unhealthy"] = [trouble.sentence for trouble in found if not trouble.note]
    said["notes"] = [trouble.sentence for trouble in found if trouble.note]
    return {**said, "updated_ms": row.updated_ms, "gone": gone}


def draw(
    rows: list[NodeRow],
    now_ms: int,
    *,
    alive: Collection[str],
    where: str,
    held_by: str = "",
    width: int = WIDTH,
    height: int = HEIGHT,
) -> list[str]:
    """The screen: at most `height` lines of at most `width` characters, what is unhealthy first.

    Args:
        rows: what nodes said of themselves.
        now_ms: Unix milliseconds.
        alive: names of those that live.
        where: the data directory.
        held_by: who holds it, where no node lives that said anything.
    """
    from millstream_server.cli.health import troubles
    from millstream_server.cli.printing import cut
    from millstream_server.core.logbook import plain
    from millstream_server.core.status import decode_status

    nodes = [(decode_status(row.status), row) for row in rows]
    wrong: list[str] = []
    right: list[str] = []
    notes: list[str] = []
    if not alive and held_by:
        mend = f"millstream doctor --data-dir {shlex.quote(where)}"
        wrong.append(f"! {held_by} holds {where} and has said nothing yet: it starts, or hangs; mend: {mend}")
    elif not alive:
        wrong.append(f"! no node works on {where}; mend: millstream up --data-dir {shlex.quote(where)}")
    for node, row in nodes:
        if node.node not in alive:
            ago = max(now_ms - row.updated_ms, 0) // 1000
            right.append(f"node {node.node} is gone: it last spoke {ago} s ago (pid {node.pid})")
            continue
        found = troubles(node)
        wrong += [f"! {node.node}: {trouble.sentence}" for trouble in found if not trouble.note]
        notes += [f"note {node.node}: {trouble.sentence}" for trouble in found if trouble.note]
        right += ["", _head(node, now_ms), *_on_kafka(node), *_mirror(node), *_releases(node, width)]
    said = [*_wrapped(wrong, width), *right, *_wrapped(notes, width)]
    lines = [cut(plain(line), width) for line in said[said[0] == "" :]]
    if len(lines) <= height:
        return lines
    return [*lines[: height - 1], cut(f"... {len(lines) - height + 1} more lines: millstream status --json", width)]


def _wrapped(sentences: list[str], width: int) -> list[str]:
    """Sentences over as many lines as they need: a mend that is cut cannot be pasted."""
    import textwrap

    return [line for sentence in sentences for line in textwrap.wrap(sentence, width, subsequent_indent="    ", break_on_hyphens=False)]


def _head(node: NodeStatus, now_ms: int) -> str:
    from millstream_server.cli.printing import span

    doing = "paused: its queue is full" if node.paused else "accepting" if node.accepting else "starting"
    up = span(max(now_ms - node.started_ms, 0) / 1000)
    queued = f" + {node.runs_queued} queued" if node.runs_queued else ""
    runs = f"  runs {node.runs_running}{queued}" if node.runs_running or node.runs_queued else ""
    role = "" if node.role == "all" else f" ({node.role})"
    return f"{node.node}{role}  {doing}  pid {node.pid}  up {up}  queued {node.queued}  lag {_known(node.lag)}{runs}"


def _known(lag: int) -> str:
    return str(lag) if lag >= 0 else "?"


def _on_kafka(node: NodeStatus) -> list[str]:
    """What a node does with a cluster; of a log of its own nothing needs to be said."""
    log = node.log
    if log is None or not log.shared:
        return []
    in_flight = sum(row.in_flight for row in node.releases)
    commits = f"commit p50 {log.commit_p50_ms:.1f} ms p99 {log.commit_p99_ms:.1f} ms" if log.commit_p99_ms else "no commit for 10 s"
    lines = [
        f"kafka {log.cluster}  {sum(log.partitions.values())} partitions  {log.rebalances} rebalances  in flight {in_flight}",
        f"{commits}  retried {log.retried}  parked {log.parked}  overflowed {log.overflowed}  dead {log.dead}",
    ]
    aside = [f"{topic.removeprefix('ml.pipeline.')} {lag}" for topic, lag in sorted(log.lags.items()) if lag and topic != INPUT]
    return [*lines, f"lag of {', of '.join(aside)}"] if aside else lines


def _mirror(node: NodeStatus) -> list[str]:
    """How far the mirror in MLflow is, on the node that writes it."""
    mirror = node.mirror
    if mirror is None or not mirror.held:
        return []
    refused = f"  refused {mirror.refused}: {mirror.refusal}" if mirror.refused else ""
    return [f"MLflow {mirror.target}  {mirror.waiting} changes wait  written {mirror.written}{refused}"]


def _releases(node: NodeStatus, width: int) -> list[str]:
    from millstream_server.cli.printing import headline, table_rows

    if not node.releases:
        return ["no release yet: millstream deploy NAME==VERSION"]
    rows = sorted(node.releases, key=lambda row: (row.environment != "BROKEN", row.package, row.release != "CURRENT", row.version))
    headers, *lines = table_rows(HEADERS, [_cells(row) for row in rows], width=width)
    shown = headers
    for row, own in zip(rows, lines, strict=True):
        shown += own
        if row.phase:
            shown.append(f"  phase: {row.phase}")
        if tenants := sorted({worker.tenant for worker in row.workers if worker.tenant}):
            shown.append(f"  tenants awake: {', '.join(tenants)}")
        if row.last_error:
            shown.append(f"  last error: {headline(row.last_error)}")
            if row.last_error_mend:  # on a line of its own: of a long error only its end is cut, never the step that mends it
                shown.append(f"  mend: {headline(row.last_error_mend)}")
    return shown


def _cells(row: ReleaseStatusRow) -> tuple[str, ...]:
    working = [worker for worker in row.workers if worker.state != "spare"]
    spare = len(row.workers) - len(working)
    environment: str = row.environment
    if row.release not in ("CURRENT", ""):
        environment += f" ({row.release.lower()})"
    return (
        f"{row.package}=={row.version}",
        environment,
        f"{len(working)} + {spare} spare" if spare else str(len(working)),
        str(row.models),
        f"{row.requests_per_s:.1f}" if row.requests_per_s < 1000 else f"{row.requests_per_s:.0f}",
        f"{row.p99_ms:.1f}" if row.requests_per_s else "-",
        str(row.queued + row.in_flight),
    )
