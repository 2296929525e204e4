"""`environments`: the environments of this machine by hand: made, listed, explained, tried, entered, removed."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from millstream_server.cli.frame import Group, Invocation, as_json, common, pass_invocation

if TYPE_CHECKING:
    from millstream_server.app import Ports
    from millstream_server.cli.deploy import Target
    from millstream_server.cli.inventory import Found
    from millstream_server.cli.trying import Call
    from millstream_server.core.release import Release
    from millstream_server.environments.contents import Contents
    from millstream_server.environments.install import Environment, Sealed

INTERRUPTED = 130
_EITHER = "NAME==VERSION|BUILD"


@click.group(
    cls=Group,
    examples=[
        ("millstream environments list", "what is on this machine, and why"),
        ("millstream environments setup anomaly==1.0.0", "also one that is not deployed"),
        ('millstream environments run anomaly==1.0.0 anomaly_judge --params \'{"reading": {"sensor": "door", "value": 27.5}}\'', ""),
    ],
)
@common
def environments() -> None:
    """Make, look at, try and remove the environments of this machine by hand.

    An environment is the virtual environment of one build. Nodes make those that they need and remove those that nobody needs; these
    commands work beside a node on the data directory, and without one.
    """


@environments.command(examples=[("millstream environments setup anomaly==2.0.0", "then: millstream environments shell anomaly==2.0.0")])
@click.argument("release", metavar="NAME==VERSION")
@common
@pass_invocation
def setup(invocation: Invocation, release: str) -> int:
    """Make the environment of a published release on this machine, as a node does.

    The release need not be deployed. Prints the folder. A node's collector leaves what was made by hand after the current release was
    deployed; the next deployment of the package ends that. Ctrl-C leaves nothing unfinished behind.
    """
    from millstream_server.cli.printing import LivePhases, Ticking
    from millstream_server.environments.releases import read_release

    target = _target(release)
    with invocation.ports() as ports:
        wanted = read_release(ports.index, target.package, target.version)
        there = ports.installer.ready(wanted.build_id)
        if there is not None:
            click.echo(f"{wanted.label} is set up already (build {wanted.build_id})", err=True)
            click.echo(str(there.prefix))
            return 0
        live = LivePhases()
        try:
            with Ticking(live):
                made = ports.installer.install(wanted, live.begin)
        except KeyboardInterrupt:
            live.drop()
            again = f"begin again: millstream environments setup {wanted.label}"
            done = ports.installer.ready(wanted.build_id) is not None  # it may have been quicker
            click.echo(
                f"{wanted.label} is set up all the same" if done else f"nothing was made and nothing is left over; {again}", err=True
            )
            return INTERRUPTED
        except BaseException:
            live.drop()
            raise
        live.end()
        _tell_made(wanted, made)
    return 0


def _tell_made(wanted: Release, made: Environment) -> None:
    click.echo(f"{wanted.label} is set up in {sum(made.seconds.values()):.1f} s (build {wanted.build_id})", err=True)
    click.echo(f"next: millstream environments show {wanted.label}", err=True)
    click.echo(str(made.prefix))


@environments.command("list", examples=[("millstream environments list", ""), ("millstream environments list --json", "")])
@as_json
@common
@pass_invocation
def list_(invocation: Invocation, as_json: bool) -> None:
    """List every environment on this machine: its state, its size, and why it is kept.

    \b
    STATE    as the node of this data directory says it: INSTALLING, READY, ASLEEP, DRAINING, BROKEN;
             `not used`: the node has no part in it; `no node`: none works here
    OWN      bytes that removing it gives back
    SHARED   bytes that uv's cache or other environments hold too
    WHY      what the node's collector would do with it, and why
    """
    from millstream_server.cli.inventory import environments as found_on
    from millstream_server.cli.inventory import look
    from millstream_server.cli.printing import SENTENCES, Column, brief_moment, moment, print_json, print_table

    with invocation.ports() as ports:
        found = found_on(ports, look(ports))
    if as_json:
        print_json([_as_json(one) for one in found])
        return
    rows = [
        (
            one.label,
            one.state,
            one.build_id,
            one.sealed.python if one.sealed is not None else "-",
            _mb(one.sizes.own_bytes) if one.sealed is not None else "-",
            _mb(one.sizes.shared_bytes) if one.sealed is not None else "-",
            moment(one.sealed.created_ms) if one.sealed is not None else "-",
            one.verdict.why + (f"; {one.reason}" if one.state == "BROKEN" and one.reason else ""),
        )
        for one in found
    ]
    columns = ("RELEASE", "STATE", "BUILD", "PYTHON", "OWN", "SHARED", Column("CREATED", brief_moment), Column("WHY", wraps=SENTENCES))
    print_table(columns, rows, nothing="no environment yet; make one: millstream environments setup NAME==VERSION")


@environments.command(
    examples=[
        ("millstream environments show anomaly==1.0.0", ""),
        ("millstream environments show 1.0.0+7ae4ee4175e0 --json", "by its build"),
    ]
)
@click.argument("environment", metavar=_EITHER)
@as_json
@common
@pass_invocation
def show(invocation: Invocation, environment: str, as_json: bool) -> None:
    """Show what one environment was sealed with: interpreter, wheel, files, phases, lock and distributions."""
    from millstream_server.cli.inventory import describe, look
    from millstream_server.cli.printing import facts, print_json
    from millstream_server.environments.contents import read_contents

    with invocation.ports() as ports:
        sealed = _sealed(ports, environment)
        found = describe(ports, look(ports), sealed)
        contents = read_contents(found.prefix, sealed.package)
    if as_json:
        held = {"lock_sha256": contents.lock_sha256, "distributions": contents.distributions}
        print_json({**_as_json(found), **held, "manifest": contents.manifest})
        return
    for line in facts(_facts(found, sealed, contents)):
        click.echo(line)


def _facts(found: Found, sealed: Sealed, contents: Contents) -> list[tuple[str, str]]:
    from millstream_server.cli.printing import moment

    manifest = contents.manifest
    same = "" if contents.lock_sha256 == manifest.lock_sha256 else f", NOT the {manifest.lock_sha256[:16]} that the release was built with"
    seconds = ", ".join(f"{name} {took:.1f} s" for name, took in sealed.seconds.items())
    return [
        ("release", found.label),
        ("build", found.build_id),
        ("folder", str(found.prefix)),
        ("state", f"{found.state}: {found.reason}" if found.reason else found.state),
        ("why", found.verdict.why),
        ("created", f"{moment(sealed.created_ms)} in {sum(sealed.seconds.values()):.1f} s ({seconds})"),
        ("python", f"{sealed.python} of {sealed.interpreter}"),
        ("wheel", f"sha256 {sealed.wheel_sha256}"),
        ("lock", f"sha256 {contents.lock_sha256}{same}"),
        ("files", f"{sealed.files} compared with their hashes when it was made"),
        ("size", f"{_mb(found.sizes.own_bytes)} of its own, {_mb(found.sizes.shared_bytes)} shared"),
        ("pipelines", ", ".join(f"{spec.name} ({spec.kind})" for spec in manifest.pipelines) or "none"),
        ("holds", "\n".join(f"{name} {version}" for name, version in contents.distributions.items())),
    ]


@environments.command(
    examples=[
        ('millstream environments run anomaly==1.0.0 anomaly_judge --params \'{"reading": {"sensor": "door", "value": 27.5}}\'', ""),
        ("millstream environments run anomaly==1.0.0 --request request.json --timeout 5", "the request as it lay on the log"),
        ("millstream environments run anomaly==1.0.0 anomaly_judge --tenant acme --model 3 --params @reading.json", "not the champion"),
    ]
)
@click.argument("environment", metavar=_EITHER)
@click.argument("pipeline", required=False, default="")
@click.option("--params", metavar="JSON|@FILE|-", help="The parameters, a file that holds them, or - for standard input. [default: {}]")
@click.option("--request", "request_file", metavar="FILE|-", help="A whole request as JSON, in place of PIPELINE and --params.")
@click.option("--tenant", default="", metavar="T", help="Whose model is meant. [default: default]")
@click.option("--model", type=click.IntRange(1), metavar="N", help="The version to load. [default: the champion]")
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), metavar="S", help="Seconds to answer. [default: the pipeline's, else the node's]"
)
@common
@pass_invocation
def run(
    invocation: Invocation,
    environment: str,
    pipeline: str,
    params: str | None,
    request_file: str | None,
    tenant: str,
    model: int | None,
    timeout: float | None,
) -> int:
    """Run one request in an environment of this machine, in a worker of its own, and print its result.

    The worker is started as a node starts it, the model's signature and hashes are verified before it is loaded. Nothing is written to
    log or store, and the model that a training makes is thrown away. The worker's lines go to standard error. Exit codes as of
    `invoke`: 3 invalid, 4 failed.
    """
    import asyncio

    from millstream_server.cli import trying
    from millstream_server.cli.invoke import read_params
    from millstream_server.cli.main import EXIT_CODES, print_error
    from millstream_server.cli.printing import print_json
    from millstream_server.environments.contents import read_contents

    if request_file is not None and params is not None:
        raise click.UsageError("give --request or --params, not both")
    if request_file is None and not pipeline:
        raise click.UsageError("name the pipeline, or give a whole request with --request FILE")
    with invocation.ports() as ports:
        sealed = _sealed(ports, environment)
        label = f"{sealed.package}=={sealed.version}"
        with ports.installer.hold(sealed.build_id):
            contents = read_contents(ports.installer.root / sealed.build_id, sealed.package)
            if request_file is not None:
                request = trying.request_in(request_file, pipeline, tenant)
            else:
                given = read_params(params or "{}", lambda: f"millstream releases show {label}")
                request = trying.checked(
                    msgspec.json.encode({"id": trying.ID, "pipeline": pipeline, "tenant": tenant or "default", "params": given})
                )
            spec = trying.pipeline_of(contents.manifest, request.pipeline)
            trying.refuse_other_kind(spec, model or 0)
            loads = spec.kind == "inference" and bool(spec.model)
            version = trying.version_of(ports, request.tenant, spec.model, model or 0) if loads else None
            python = _ready(ports, sealed).python
            node = ports.settings.node
            usual_s = node.run_timeout_s if spec.kind == "training" else node.attempt_timeout_s
            call = trying.Call(python, spec, request, version, timeout or request.timeout_s or spec.timeout_s or usual_s)
            _tell_call(sealed, call)
            try:
                result, error = asyncio.run(trying.run(ports, sealed, call))
            except KeyboardInterrupt:
                click.echo("interrupted; the worker was ended, nothing was written", err=True)
                return INTERRUPTED
    if error is not None:
        if error.detail:
            click.echo(error.detail.rstrip("\n"), err=True)
        print_error(*trying.failure(call, label, error))
    else:
        print_json(result)
    return EXIT_CODES[result.status]


def _tell_call(sealed: Sealed, call: Call) -> None:
    from millstream_server.cli.printing import caution
    from millstream_server.core.names import model_key

    label, version = f"{sealed.package}=={sealed.version}", call.version
    key = model_key(call.request.tenant, call.spec.model) if version is not None else ""
    loaded = f" with {key} v{version.version}" if version is not None else ""
    kind = "; the model that it makes is thrown away" if call.spec.kind == "training" else ""
    click.echo(f"{call.spec.name} in {label} for {call.request.tenant}{loaded}; nothing is written to log or store{kind}", err=True)
    if version is not None and version.build_id != sealed.build_id:
        caution(
            f"{key} v{version.version} was trained by {version.package}=={version.release}, and nodes answer it there alone",
            f"to see what its callers get: millstream environments run {version.build_id} {call.spec.name} --tenant {call.request.tenant}",
        )


@environments.command(
    examples=[
        ("millstream environments shell anomaly==1.0.0", "Python with the release's own packages"),
        ("millstream environments shell anomaly==1.0.0 -c 'import anomaly'", ""),
    ]
)
@click.argument("environment", metavar=_EITHER)
@click.option("-c", "code", metavar="CODE", help="Run this and end, in place of asking for lines.")
@common
@pass_invocation
def shell(invocation: Invocation, environment: str, code: str | None) -> int:
    """Start the environment's own Python, as its workers are started.

    `python -I` with the environment variables of a worker: no credential, no setting of the node, a home of its own that is removed at
    the end. It works in the folder in which you are. The exit code is Python's. The environment is not removed meanwhile.
    """
    from millstream_server.node.worker import scrubbed_environment

    with invocation.ports() as ports:
        sealed = _sealed(ports, environment)
        python = _ready(ports, sealed).python
        with (
            ports.installer.hold(sealed.build_id) as held,
            tempfile.TemporaryDirectory(prefix="millstream-shell-") as home,
        ):
            variables = scrubbed_environment(python, Path(home))
            if code is None:
                variables |= {name: os.environ[name] for name in ("TERM", "COLORTERM") if name in os.environ}
                click.echo(
                    f"{sealed.package}=={sealed.version}, build {sealed.build_id}, {python.parent.parent}; end it with Ctrl-D", err=True
                )
            command = [str(python), "-I", *(["-c", code] if code is not None else [])]
            return _wait_for(subprocess.Popen(command, env=variables, pass_fds=(held,)))


def _wait_for(process: subprocess.Popen[bytes]) -> int:
    """Wait for a child that shares the terminal: what is typed there, Ctrl-C too, is for it. Its exit code as shells spell it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    return code if code >= 0 else 128 - code


@environments.command(
    examples=[
        ("millstream environments remove anomaly==1.0.0", "asks first"),
        ("millstream environments remove 1.0.0+7ae4ee4175e0 --yes", ""),
    ]
)
@click.argument("environment", metavar=_EITHER)
@click.option("--yes", is_flag=True, help="Do not ask.")
@common
@pass_invocation
def remove(invocation: Invocation, environment: str, yes: bool) -> None:
    """Remove an environment that nobody needs, and say how much that gives back.

    What the node of this data directory needs or uses is refused, with the reason. Without a node everything that nobody works in can
    be removed: what the next node needs it makes anew.
    """
    from millstream_server.cli.inventory import describe, look, refusal
    from millstream_server.core.errors import Invalid

    with invocation.ports() as ports:
        sealed = _sealed(ports, environment)
        found = describe(ports, look(ports), sealed)
        refused = refusal(look(ports), found)
        if refused is not None:
            why, mend = refused
            raise Invalid("environment_in_use", f"{found.label} is not removed: {why}", where=str(found.prefix), mend=mend)
        click.echo(
            f"this removes {found.prefix}, {found.label} ({found.verdict.why}), and gives {_mb(found.sizes.own_bytes)} back", err=True
        )
        if found.verdict.kind == "needed":
            click.echo("  the next node on this data directory needs it and makes it anew before it answers", err=True)
        if not yes and not click.confirm("remove it?", err=True):
            click.echo("nothing was removed", err=True)
            return

        def check() -> None:
            """A deployment may have come while we asked; who writes one from now on finds no environment and makes it anew."""
            known = look(ports)
            refused = refusal(known, describe(ports, known, sealed, ours=True))
            if refused is not None:
                raise Invalid("environment_in_use", f"{found.label} is not removed: {refused[0]}", where=str(found.prefix), mend=refused[1])

        freed_bytes = ports.installer.remove(sealed.build_id, check)
    click.echo(
        f"{found.label} is removed, {_mb(freed_bytes)} given back; to have it again: millstream environments setup {found.label}", err=True
    )


def _target(text: str) -> Target:
    from millstream_server.cli import deploy

    target = deploy.Target.parse(text)
    if not target.version:
        raise click.UsageError(f"name the version too, as in {target.package}==1.0.0; see: millstream releases list")
    return target


def _sealed(ports: Ports, text: str) -> Sealed:
    """The environment that is meant, by NAME==VERSION or by its build."""
    from millstream_server.environments.contents import named

    installed = ports.installer.installed()
    if "==" not in text:
        return named(installed, "", "", text)
    target = _target(text)
    return named(installed, target.package, target.version, "")


def _ready(ports: Ports, sealed: Sealed) -> Environment:
    """The environment, which can run.

    Raises:
        Unavailable: no_interpreter, its own is gone.
    """
    from millstream_server.core.errors import Unavailable

    ready = ports.installer.ready(sealed.build_id)
    if ready is None:
        label = f"{sealed.package}=={sealed.version}"
        message = f"the interpreter of {label}, {sealed.interpreter}, is gone"
        raise Unavailable("no_interpreter", message, mend=f"make it anew with another: millstream environments setup {shlex.quote(label)}")
    return ready


def _as_json(found: Found) -> dict[str, object]:
    return {
        "package": found.package,
        "version": found.version,
        "build_id": found.build_id,
        "folder": str(found.prefix),
        "state": found.state,
        "reason": found.reason,
        "kept": found.verdict.kind,
        "why": found.verdict.why,
        "own_bytes": found.sizes.own_bytes,
        "shared_bytes": found.sizes.shared_bytes,
        "sealed": found.sealed,
    }


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
