"""The shipped command `millstream` as a black box: start it, ask it, send through it, read through it, kill it.

The demo, the chaos harness and the benchmarks drive the platform through this room, as a user's own scripts would: in
separate processes, by the documented commands and their JSON. What a platform stands on is started here too, as the real
thing: Kafka brokers, PostgreSQL. Nothing here imports the server or the SDK.
"""
