"""`doctor`: every check of `checks`, told line by line, with the mend of each fault."""

from __future__ import annotations

import click
import msgspec

from millstream_server.cli.frame import Command, Invocation, as_json, common, pass_invocation

FAILED = 4
_MARKS = {"ok": "ok   ", "note": "note ", "fault": "FAULT"}


@click.command(
    cls=Command,
    examples=[
        ("millstream doctor", ""),
        ("millstream doctor --data-dir ./data --json", "for a script"),
    ],
)
@as_json
@common
@pass_invocation
def doctor(invocation: Invocation, as_json: bool) -> int:
    """Look for everything that is known to go wrong, and say how to mend it.

    Looks at this machine and at the data directory. Changes nothing, and may be run beside a node. Exit code 0 without a fault, 4 with one.
    """
    from millstream_server.cli.checks import examine
    from millstream_server.cli.printing import print_json
    from millstream_server.core.logbook import plain

    findings = []
    for finding in examine(invocation.data_dir):
        findings.append(finding)
        if not as_json:
            click.echo(plain(f"{_MARKS[finding.state]} {finding.check:<12} {finding.detail}"))
            if finding.mend:
                click.echo(plain(f"      mend: {finding.mend}"))
    faults = sum(finding.state == "fault" for finding in findings)
    if as_json:
        print_json({"faults": faults, "findings": [msgspec.to_builtins(finding) for finding in findings]})
    else:
        click.echo(f"{len(findings)} check{'s' * (len(findings) != 1)}, {faults} fault{'s' * (faults != 1)}")
    return FAILED if faults else 0
