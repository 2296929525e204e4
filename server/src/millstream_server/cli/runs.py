"""`runs`: what long work is doing, its log, and how to end it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click
import msgspec

from millstream_server.cli.frame import Group, Invocation, as_json, common, pass_invocation

if TYPE_CHECKING:
    from millstream_server.core.run import Run


class _State(click.Choice[str]):
    """A state in letters of either case, spelled as listings do."""

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(str(value).upper(), param, ctx)


@click.group(cls=Group, examples=[("millstream runs list --state RUNNING", ""), ("millstream runs show 01J9Z7M0C4", "")])
@common
def runs() -> None:
    """Look at runs, read their log, cancel one."""


@runs.command(
    "list",
    examples=[
        ("millstream runs list", "the newest 100"),
        ("millstream runs list --tenant acme --state FAILED", ""),
        ("millstream runs list --json -n 1000", ""),
    ],
)
@click.option("--tenant", default="", metavar="T", help="Of this tenant only.")
@click.option("--pipeline", default="", metavar="P", help="Of this pipeline only.")
@click.option(
    "--state",
    type=_State(["QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "DEAD"]),
    metavar="STATE",
    help="QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED or DEAD only.",
)
@click.option("-n", "--limit", type=click.IntRange(1), default=100, show_default=True, metavar="N", help="At most so many, the newest.")
@as_json
@common
@pass_invocation
def list_(invocation: Invocation, tenant: str, pipeline: str, state: str | None, limit: int, as_json: bool) -> None:
    """List runs, newest first."""
    from millstream_server.cli.printing import SENTENCES, Column, brief_moment, moment, print_json, print_table

    with invocation.ports() as ports:
        found = ports.store.runs(tenant=tenant, pipeline=pipeline, state=state or "", limit=limit)
    if as_json:
        print_json([_as_json(run) for run in found])
        return
    rows = [(r.run, r.state, r.pipeline, r.tenant, str(r.attempt), moment(r.created_ms), _took(r), _why(r) or _doing(r)) for r in found]
    columns = ("RUN", "STATE", "PIPELINE", "TENANT", "TRY", Column("CREATED", brief_moment), "TOOK", Column("WHY", wraps=SENTENCES))
    print_table(columns, rows, nothing="no such run")


@runs.command(examples=[("millstream runs show 01J9Z7M0C4", ""), ("millstream runs show 01J9Z7M0C4 --json", "")])
@click.argument("run")
@as_json
@common
@pass_invocation
def show(invocation: Invocation, run: str, as_json: bool) -> None:
    """Show one run: state, release, attempts, steps, metrics, model version, error."""
    from millstream_server.cli.printing import facts, print_json

    with invocation.ports() as ports:
        found = _find(ports.store.run(run), run)
    if as_json:
        print_json(_as_json(found))
        return
    for line in facts(_describe(found)):
        click.echo(line)


@runs.command(examples=[("millstream runs logs 01J9Z7M0C4", ""), ("millstream runs logs 01J9Z7M0C4 -f", "until the run has ended")])
@click.argument("run")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@as_json
@common
@pass_invocation
def logs(invocation: Invocation, run: str, follow: bool, as_json: bool) -> None:
    """Print the log lines of one run."""
    from millstream_server.cli.logs import print_lines
    from millstream_server.core.logbook import Selection
    from millstream_server.core.run import ENDED

    with invocation.ports() as ports:
        _find(ports.store.run(run), run)

        def ended() -> bool:
            now = ports.store.run(run)
            return now is None or now.state in ENDED

        print_lines(ports.logbook_folder, Selection(run=run), as_json=as_json, stop=ended if follow else None, follow=follow)


@runs.command(examples=[("millstream runs cancel 01J9Z7M0C4", "")])
@click.argument("run")
@common
@pass_invocation
def cancel(invocation: Invocation, run: str) -> None:
    """Ask for the end of a run: a queued one ends at once, a running one when its code next looks, or when its worker is ended.

    Whoever asked for the run gets a result with the status cancelled.
    """
    from millstream_server.node.runs import answer_maker

    def now_ms() -> int:
        return time.time_ns() // 1_000_000

    with invocation.ports() as ports:
        state = ports.store.cancel_run(run, answer_maker(ports.settings.node.name, now_ms), now_ms())
    if state == "CANCELLED":
        click.echo(f"run {run} is cancelled", err=True)
    else:
        click.echo(f"run {run} is told to stop; see: millstream runs show {run}", err=True)


def _find(found: Run | None, run: str) -> Run:
    """The run, or the error that there is none.

    Raises:
        Invalid: unknown_run.
    """
    from millstream_server.core.errors import Invalid

    if found is None:
        raise Invalid("unknown_run", f"there is no run {run}")
    return found


def _doing(run: Run) -> str:
    running = next((f"step {step.name}" for step in run.steps if step.status == "running"), "")
    return f"waits for {run.waits_for}" if run.waits_for else running


def _took(run: Run) -> str:
    from millstream_server.cli.printing import span

    if not run.started_ms:
        return "-"
    end_ms = run.ended_ms or time.time_ns() // 1_000_000
    return span(max(end_ms - run.started_ms, 0) / 1000)


def _error(run: Run) -> tuple[str, str]:
    """What ended a run, and the JSON path that it concerns: the store keeps the path behind a tab."""
    message, _, path = run.error_message.partition("\t")
    return message, path


def _why(run: Run) -> str:
    message, path = _error(run)
    return f"{path}: {message}" if path else message


def _describe(run: Run) -> list[tuple[str, str]]:
    from millstream_server.cli.printing import headline, moment, params_in_short

    message, path = _error(run)
    facts = [
        ("run", run.run),
        ("state", run.state + (" (to be cancelled)" if run.cancel_requested and not run.ended_ms else "")),
        ("pipeline", f"{run.pipeline} of {run.package}, tenant {run.tenant}"),
        ("release", f"{run.package}=={run.release} (build {run.build_id})" if run.release else "not claimed yet"),
        ("created", moment(run.created_ms)),
        ("took", _took(run)),
        ("waits for", run.waits_for),
        ("model", f"{run.tenant}.{run.model} version {run.model_version}" if run.model_version else ""),
        ("held back", run.held_back),
        ("params", params_in_short(run.params)),
        ("key", run.idempotency_key),
        ("error", f"{run.error_code.replace('_', '-')}: {message}" if run.error_code else ""),
        ("at", path),
    ]
    found = [(name, value) for name, value in facts if value]
    for attempt in run.attempts:
        end = f"{attempt.end}{': ' + headline(attempt.detail) if attempt.detail else ''}" if attempt.end else "running"
        found.append((f"try {attempt.attempt}", f"{moment(attempt.started_ms)} on {attempt.node}, {attempt.release}: {end}"))
    for step in run.steps:
        found.append(("step", f"{step.name}: {step.status}" + (f", {step.seconds:.2f} s" if step.seconds else "")))
    found += [("metric", f"{name} = {value:g}") for name, value in run.metrics.items()]
    return found


def _as_json(run: Run) -> dict[str, object]:
    """Every fact of a run; parameters as the JSON they are, and the error's path apart from its message."""
    found: dict[str, object] = msgspec.structs.asdict(run)
    found["error_message"], found["error_path"] = _error(run)
    try:
        found["params"] = msgspec.json.decode(run.params)
    except (msgspec.DecodeError, UnicodeDecodeError):
        found["params"] = run.params.decode("utf-8", "backslashreplace")
    return found
