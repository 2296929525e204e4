"""The release index as any server that speaks PEP 503 or PEP 691: pypiserver, devpi, Nexus, Artifactory, GitLab and their like.

Called through `core.index.ReleaseIndex` by the build and deploy commands and by the installer of environments, in their threads.
Invariant: a wheel is handed out only whole and with the hash that the index's own page says; what the server redirects elsewhere is
not on it; the login goes to the server's own address alone, and stands in no message, file or process argument.
"""

from millstream_server.adapters.simple_index.index import SimpleIndex
from millstream_server.adapters.simple_index.login import Login, find_login, login_for
from millstream_server.adapters.simple_index.web import Web

__all__ = ["Login", "SimpleIndex", "Web", "find_login", "login_for"]
