"""Who may call the server, over which addresses, and what may they do?

addresses      the address that a server listens on, and whether other machines reach it
socket_file    a socket in the file system
tokens         the file of access tokens: names, roles, scopes, hashes
roles          the role that each rpc requires
callers        the token of a call and what it permits; the audit log
certificates   the files of TLS, checked and reloaded
"""

from __future__ import annotations

__all__ = ["addresses", "callers", "certificates", "roles", "socket_file", "tokens"]
