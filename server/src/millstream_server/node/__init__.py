"""The process that takes work from the log, runs it in workers of the right release, and writes each result once.

One event loop (`node.py`) owns pools, models, releases and runs. Two threads stand beside it: the poller alone reads the log
(`poller.py`), the committer alone writes results with offsets (`committer.py`); they meet the loop in batches, never by
message. Called by `app.py`, which hands in the ports. Invariant: an offset is committed only in the transaction that holds
its result, and every record read ends in exactly one result, retry record or dead letter.
"""
