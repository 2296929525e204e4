"""`status`: what every node says of itself, on one screen."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING

import click
import msgspec

from millstream_server.cli.frame import Command, Invocation, as_json, common, pass_invocation

if TYPE_CHECKING:
    from millstream_server.core.status import NodeStatus, ReleaseStatusRow
    from millstream_server.core.store import NodeRow

GONE_MS = 10_000
"""A node renews its row every second; one that did not for this long is gone."""

WIDTH, HEIGHT = 80, 24
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
    """
    from millstream_server.cli.printing import print_json

    with invocation.ports() as ports:
        while True:
            rows, now_ms = ports.store.nodes(), time.time_ns() // 1_000_000
            if as_json:
                print_json({"data_dir": str(ports.data_dir), "now_ms": now_ms, "nodes": [_as_json(row, now_ms) for row in rows]})
            else:
                size = shutil.get_terminal_size((WIDTH, HEIGHT)) if sys.stdout.isatty() else (WIDTH, 1_000_000)
                lines = draw(rows, now_ms, where=str(ports.data_dir), width=max(size[0], 40), height=size[1] - 1)
                click.echo(("\x1b[H\x1b[J" if watch and sys.stdout.isatty() else "") + "\n".join(lines))
            sys.stdout.flush()
            if not watch:
                return 0 if any(_alive(row, now_ms) for row in rows) else 5
            time.sleep(1)


def _alive(row: NodeRow, now_ms: int) -> bool:
    return now_ms - row.updated_ms < GONE_MS


def _as_json(row: NodeRow, now_ms: int) -> dict[str, object]:
    from millstream_server.core.status import decode_status

    said: dict[str, object] = msgspec.to_builtins(decode_status(row.status))
    return {**said, "updated_ms": row.updated_ms, "gone": not _alive(row, now_ms)}


def draw(rows: list[NodeRow], now_ms: int, *, where: str, width: int = WIDTH, height: int = HEIGHT) -> list[str]:
    """The screen: at most `height` lines of at most `width` characters, what is unhealthy first."""
    from millstream_server.cli.printing import cut
    from millstream_server.core.logbook import plain
    from millstream_server.core.status import decode_status

    nodes = [(decode_status(row.status), row) for row in rows]
    wrong: list[str] = []
    right: list[str] = []
    if not any(_alive(row, now_ms) for row in rows):
        wrong.append(f"! no node works on {where}; mend: millstream up --data-dir {where}")
    for node, row in nodes:
        if not _alive(row, now_ms):
            ago = max(now_ms - row.updated_ms, 0) // 1000
            right.append(f"node {node.node} is gone: it said nothing for {ago} s (pid {node.pid})")
            continue
        wrong += [f"! {node.node}: {sentence}" for sentence in node.unhealthy]
        right += ["", _head(node, now_ms), *_releases(node)]
    lines = [cut(plain(line), width) for line in [*_wrapped(wrong, width), *right]]
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
    runs = f"  runs {node.runs_running}+{node.runs_queued}" if node.runs_running or node.runs_queued else ""
    role = "" if node.role == "all" else f" ({node.role})"
    return f"{node.node}{role}  {doing}  pid {node.pid}  up {up}  queued {node.queued}  lag {node.lag}{runs}"


def _releases(node: NodeStatus) -> list[str]:
    from millstream_server.cli.printing import table

    if not node.releases:
        return ["no release yet: millstream deploy NAME==VERSION"]
    rows = sorted(node.releases, key=lambda row: (row.environment != "BROKEN", row.package, row.release != "CURRENT", row.version))
    lines = table(HEADERS, [_cells(row) for row in rows])
    shown = [lines[0]]
    for row, line in zip(rows, lines[1:], strict=True):
        shown.append(line)
        if row.last_error:
            mend = f"; mend: {row.last_error_mend}" if row.last_error_mend else ""
            shown.append(f"  last error: {row.last_error}{mend}")
    return shown


def _cells(row: ReleaseStatusRow) -> tuple[str, ...]:
    from millstream_server.cli.printing import cut

    working = [worker for worker in row.workers if worker.state != "spare"]
    spare = len(row.workers) - len(working)
    environment = f"{row.environment} {row.phase}" if row.phase else row.environment
    if row.release not in ("CURRENT", ""):
        environment += f" ({row.release.lower()})"
    return (
        cut(f"{row.package}=={row.version}", 24),
        cut(environment, 19),
        f"{len(working)}+{spare}" if spare else str(len(working)),
        str(row.models),
        f"{row.requests_per_s:.1f}" if row.requests_per_s < 1000 else f"{row.requests_per_s:.0f}",
        f"{row.p99_ms:.1f}" if row.requests_per_s else "-",
        str(row.queued + row.in_flight),
    )
