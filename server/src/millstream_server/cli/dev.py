"""`dev`: the platform for the author of a package, which releases what was saved."""

from __future__ import annotations

import threading
from pathlib import Path

import click

from millstream_server.cli.frame import Command, Invocation, common, pass_invocation

FOLDER = ".millstream-dev"
JOIN_S = 30.0
"""How long the author's side may take to end after the node has: a child of a build that was interrupted is ended in two seconds."""


@click.command(
    cls=Command,
    examples=[
        ("millstream dev", "the package in this folder, until Ctrl-C"),
        ("millstream dev ./anomaly --data-dir /tmp/anomaly-dev", ""),
        ('millstream dev --ask anomaly_judge --params \'{"reading": {"sensor": "door", "value": 27.5}}\'', "and asks it after every save"),
    ],
)
@click.argument("folder", metavar="[FOLDER]", type=click.Path(path_type=Path, file_okay=False), default=".")
@click.option("--ask", default="", metavar="PIPELINE", help="Ask this pipeline after every release, and print its answer.")
@click.option("--params", metavar="JSON|@FILE|-", help="The parameters of what is asked. [default: {}]")
@click.option("--tenant", default="default", show_default=True, metavar="T", help="The tenant of what is asked.")
@common
@pass_invocation
def dev(invocation: Invocation, folder: Path, ask: str, params: str | None, tenant: str) -> int:
    """Run the platform on a package's folder, and release anew whenever a file of it is saved.

    The platform works on a data directory of its own, FOLDER/.millstream-dev, which git ignores. Each save is built as a development
    release (1.2.0.dev1, 1.2.0.dev2, ...), published and deployed; what cannot be built is told, and the last good release serves on.
    Models answer from the release that trained them until they are trained again. Ctrl-C ends everything in order.
    """
    from millstream_server import app
    from millstream_server.cli.developing import Developing, Question, prepare
    from millstream_server.cli.invoke import read_params
    from millstream_server.config import CONNECTED
    from millstream_server.environments.build import read_package

    if invocation.connections:
        raise click.UsageError("dev works on a log, store and index of its own; for others see: millstream node --help")
    if params is not None and not ask:
        raise click.UsageError("name the pipeline that --params are for with --ask PIPELINE")
    folder = folder.absolute()
    package = read_package(folder)
    question = (
        Question(ask, tenant, bytes(read_params(params or "{}", lambda: f"millstream releases show {package.name}"))) if ask else None
    )
    if invocation.data_dir is None:
        invocation.data_dir = folder / FOLDER
    settings = invocation.settings(dict.fromkeys(CONNECTED, ""), follow_node=False)
    prepare(settings)
    stop = threading.Event()
    developing = Developing(settings, folder, question, stop)

    def on_ready(_: str) -> None:
        developing.start()

    try:
        code = app.run_node(settings, create=True, on_ready=on_ready, terminal=False)
    finally:
        stop.set()
        developing.join(JOIN_S)
    click.echo("ended; nothing runs any more", err=True)
    return code
