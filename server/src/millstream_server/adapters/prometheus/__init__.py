"""The metrics of a node for Prometheus, on a port of 127.0.0.1.

Called by `app.py` where the setting `node.metrics_port` names a port. The room counts nothing itself: each time it is asked, it
asks the node for its figures and spells them by Prometheus' conventions (`metrics`). Invariant: asking changes nothing, and a
node that does not answer is told as such, never by old figures.
"""

from millstream_server.adapters.prometheus.endpoint import MetricsEndpoint

__all__ = ["MetricsEndpoint"]
