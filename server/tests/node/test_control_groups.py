"""Where the control groups of workers may be, by what the kernel says of this process, and what they do."""

from __future__ import annotations

import subprocess

import pytest
from millstream_server.node import control_groups

FIRST = "9:name=systemd:/\n8:pids:/\n2:cpu,cpuacct:/batch\n1:cpuset:/\n0::/\n"
DELEGATED = "0::/system.slice/millstream.service/node\n"


@pytest.mark.parametrize(
    ("own", "controller", "found"),
    [
        (FIRST, "pids", ["pids", "."]),
        (FIRST, "cpu", ["cpu/batch", "cpu,cpuacct/batch", "."]),
        (DELEGATED, "pids", ["system.slice/millstream.service/node", "system.slice/millstream.service"]),
        ("0::/user.slice/session-1.scope\n", "cpu", ["user.slice/session-1.scope"]),
        ("", "pids", []),
    ],
)
def test_groups_are_made_beside_the_node(own: str, controller: str, found: list[str]) -> None:
    """On the first version in the controller's own tree, on the second beside the node where its unit delegates that."""
    assert control_groups.places(own, controller) == found


def test_a_group_holds_its_processes_and_goes_with_them() -> None:
    """Where this machine lets us make any: who enters is counted, and once all have ended nothing is left."""
    groups = control_groups.find()
    if groups is None:
        pytest.skip("control groups cannot be written here: they are for root, or for a unit that delegates them")
    group = groups.make(20, 0.5)
    assert group is not None
    script = f"for door in {' '.join(group.doors)}; do echo 0 > $door; done; read line"
    with subprocess.Popen(["/bin/sh", "-c", f"{script}; exit 0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as inside:
        assert inside.stdin is not None
        while not group.pids():
            assert inside.poll() is None
        assert group.pids() == [inside.pid]
        inside.stdin.close()
        assert inside.wait(10) == 0

    group.remove()

    assert not [folder for folder in group.folders if folder.exists()]
