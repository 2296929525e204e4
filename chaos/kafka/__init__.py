"""Chaos over Kafka: several nodes on a real cluster, killed, frozen, cut off and fenced, and the count of what came of it.

`python -m chaos --log kafka` (make chaos LOG=kafka) calls `attack`. `ground` holds cluster, store, proxies and nodes, `plan` says
what is sent and which fault comes when, `faults` does one fault each and proves whether it bit, `topics` writes requests and
reads results through confluent-kafka alone. Invariant: what is counted comes from the topics as a read-committed reader sees
them, never from the server; nothing of the server is imported, except by `faulty`, which starts nodes that break the promise.
"""
