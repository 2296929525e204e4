"""`up` and `node`: the commands that stay."""

from __future__ import annotations

import click

from millstream_server.cli.frame import Command, F, Invocation, common, pass_invocation
from millstream_server.cli.settings import set_option


def _node_options(command: F) -> F:
    """The settings that people change most, as options of their own; `--set` reaches all of them."""
    role = click.option("--role", type=click.Choice(["all", "inference", "training"]), help="Which work the node takes. [default: all]")
    name = click.option("--name", metavar="NAME", help="What the node is called in results and status. [default: node-1]")
    workers = click.option("--workers", type=int, metavar="N", help="Worker processes a release. [default: 1]")
    metrics = click.option("--metrics-port", type=int, metavar="N", help="Port of 127.0.0.1 for Prometheus. [default: none]")
    mlflow = click.option(
        "--mlflow",
        expose_value=False,
        callback=_keep_mlflow,
        metavar="URL",
        help="An MLflow server that mirrors runs and models; embedded, or off. [default: embedded where it is installed]",
    )
    return role(name(workers(metrics(mlflow(set_option(command))))))


def _keep_mlflow(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(Invocation).connections["mlflow.uri"] = value


@click.command(
    cls=Command,
    examples=[
        ("millstream up", "on ~/.millstream"),
        ("millstream up --data-dir ./data --workers 2", ""),
        ("millstream up --set log.retention_hours=24 --set node.worker_memory_bytes=512MiB", "any setting: millstream config show"),
    ],
)
@_node_options
@common
@pass_invocation
def up(
    invocation: Invocation, role: str | None, name: str | None, workers: int | None, metrics_port: int | None, settings: dict[str, str]
) -> int:
    """Run the platform on a data directory: log, store and node in one process.

    Makes the data directory where there is none. Says when the log accepts requests, then shows the log of node and workers
    until Ctrl-C or SIGTERM, which drain: what is in flight is finished first. Other processes on this machine may put requests on
    the log and read results meanwhile, with this command or with a library.
    """
    return _run(invocation, settings | _given(role, name, workers, metrics_port), create=True)


@click.command(
    cls=Command,
    examples=[
        ("millstream node --data-dir ./data", "on a data directory that `up` made"),
        ("millstream node --role inference", "take no runs"),
        (
            "millstream node --data-dir ./b --name b --kafka localhost:9092 --store postgresql://ms@localhost/ms"
            " --artifacts /shared/artifacts --index /shared/index --signing-key /shared/signing-key",
            "one of several, on Kafka",
        ),
    ],
)
@_node_options
@common
@pass_invocation
def node(
    invocation: Invocation, role: str | None, name: str | None, workers: int | None, metrics_port: int | None, settings: dict[str, str]
) -> int:
    """Run a node on a data directory that is there already.

    Unlike `up` it makes no log, store or key: what is missing is an error. One node works on a data directory; a second one is
    told who holds it. With --kafka, --store, --artifacts, --index and --signing-key several nodes, each with a name and a data
    directory of its own (which is made), are one platform.
    """
    return _run(invocation, settings | _given(role, name, workers, metrics_port), create=False)


def _given(role: str | None, name: str | None, workers: int | None, metrics_port: int | None) -> dict[str, object]:
    given = {"node.role": role, "node.name": name, "node.workers": workers, "node.metrics_port": metrics_port}
    return {setting: value for setting, value in given.items() if value is not None}


def _run(invocation: Invocation, flags: dict[str, object], *, create: bool) -> int:
    from millstream_server import app

    return app.run_node(invocation.settings(flags, follow_node=False), create=create, on_ready=lambda words: click.echo(words))
