"""The registry's mirror in MLflow: on SQLite and a folder of the data directory, or on an MLflow server.

Called by the node's loop that follows the outbox. Only `helper`, a process of its own that starts on demand, imports mlflow: it takes
150 MB and a second of CPU, which a node without it does not spend, and it can be killed when a server hangs. `client` is the node's
side: every call has a deadline, and the helper ends when it was not needed for a while, or when the node ends.
"""

from millstream_server.adapters.mlflow.client import MlflowMirror, installed

__all__ = ["MlflowMirror", "installed"]
