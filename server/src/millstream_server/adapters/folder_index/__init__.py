"""The release index as a folder of wheels, the embedded default.

Called through `core.index.ReleaseIndex` by the build and deploy commands and by the installer of environments.
Invariant: a wheel's name in the folder appears whole or not at all and its bytes never change afterwards; its SHA-256 is
recorded beside it when it is published, and no wheel is handed out whose bytes differ from the record.
"""

from millstream_server.adapters.folder_index.folder import FolderIndex

__all__ = ["FolderIndex"]
