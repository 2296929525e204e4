"""The shipped command `millstream` as a black box: start it, ask it, send through it, read through it, kill it.

The demo, the chaos harness and the benchmarks drive the platform through this room, as a user's own scripts would: in
separate processes, by the documented commands and their JSON. Nothing here imports the server or the SDK.
"""
