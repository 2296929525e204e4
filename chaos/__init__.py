"""Chaos: the promise "exactly one result for every accepted request" under kills of workers and nodes, and the proof of it.

`python -m chaos --seconds 120 --seed 1` (make chaos) deploys two small releases, sends requests whose answers a checker can
recompute, kills processes at moments drawn from the seed, and counts. `faulty_node` starts nodes with planted faults: the
harness is believed because it reports those.

The driver is parted from what it drives, so that it runs over another log too: `plan` says what is sent and killed, `attack`
does it through the shipped command, `judge` counts from what was acknowledged and what lies on the output topic.
"""
