"""From an author's folder to a release, and from a release to a ready virtual environment on this node.

Called by the command line (init, build, publish, deploy through `read_release`) and by the node (`Installer`). Knows uv and
the layout of wheels, nothing of logs, stores or workers beyond the probe that it runs.
Invariant: a path that has its final name is complete. Environments are made under a temporary name, import-probed, sealed
with MANIFEST.json and renamed; wheels are written aside and renamed; whatever is interrupted leaves only temporary names.
"""
