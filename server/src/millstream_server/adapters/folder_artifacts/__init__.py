"""Model files in a folder of this machine, or one that nodes share.

Called through the port `core.artifacts.Artifacts` by the node; made by `app`. An attempt writes into
`ROOT/.staging/TENANT.MODEL/RUN-ATTEMPT`, sealing moves that to `ROOT/TENANT.MODEL/RUN-ATTEMPT`. Invariant: what stands outside
of `.staging` is complete, on the disk, made of plain files, and never written again; no path given by anybody leads out of ROOT.
"""

from millstream_server.adapters.folder_artifacts.artifacts import FolderArtifacts

__all__ = ["FolderArtifacts"]
