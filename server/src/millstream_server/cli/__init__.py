"""The command `millstream`: a door. It translates words into calls of `app` and core, and what comes back into text or JSON.

Called by people and scripts, one short process a command; `up` and `node` stay. A command imports what it needs when it
runs, never sqlalchemy or cryptography for a listing of topics, so that help and appends start at once. Invariant: what was
asked for goes to standard output, everything else to standard error; every failure ends in three parts (what, where, mend)
and an exit code by its kind, and in no traceback without `--debug`.
"""
