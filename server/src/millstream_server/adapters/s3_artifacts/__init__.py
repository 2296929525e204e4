"""Model files in a bucket of an S3 store, with a verified copy of those in use on this node.

Called through the port `core.artifacts.Artifacts` by the node and the command line; made by `app`. A location `TENANT.MODEL/RUN-ATTEMPT`
is the objects below `PREFIX/TENANT.MODEL/RUN-ATTEMPT/`: one object a file, named by the hashes of its name and content, and
`sealed.json`, which is written last and only where there is none, and names them all. Invariant: without `sealed.json` there is no
location, so that half an upload is never one; with it, its files never change; what `fetch` returns is as `sealed.json` says.

`objects` speaks to the store (time limits, failures, conditional writes), `sealed` is the text of `sealed.json`, `cache` the copies.
"""

from millstream_server.adapters.s3_artifacts.artifacts import S3Artifacts
from millstream_server.adapters.s3_artifacts.objects import Access

__all__ = ["Access", "S3Artifacts"]
