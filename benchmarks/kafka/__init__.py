"""The Kafka lane, measured: a real `millstream node` beside peers on one real broker, and under light load, backlog, kills, floods.

Called by `benchmarks.run`. `ground` starts what is measured on, `topics` is the measuring client, `peers` makes the peers' environments
and starts them, `contenders/` are their programs; each other module is one benchmark. Everything is driven from outside, through the
shipped command and the topics; every count of results is made with `read_committed`.
"""
