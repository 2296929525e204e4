"""What every test of the repository needs.

A shell starts what it puts into the background with SIGINT ignored, and every child inherits that; tests that interrupt a command
must find the signal as a terminal leaves it.
"""

from __future__ import annotations

import signal

from hypothesis import settings

pytest_plugins = ["blackbox.kafka_fixtures"]

# How long an example takes is a matter of the machine; what is slow by itself meets the timeout of its test.
settings.register_profile("repository", deadline=None)
settings.load_profile("repository")
signal.signal(signal.SIGINT, signal.default_int_handler)
