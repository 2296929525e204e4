"""Runs the Java client's tests against the real thing: starts the broker, deploys the packages that the tests call, runs Maven.

Called by `make test-java`. The tests start and stop the `millstream node` processes themselves, as an operator would; brokers are
kept here and reached through `desk`. Imports `blackbox` and, for the one figure that both languages must agree on, the server's
partitioner.
"""
