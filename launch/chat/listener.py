"""The address a server listens on, taken before a model is loaded, which may take minutes.

In: host, port and key. Out: a listening socket, or an InputError that says what is wrong with them.
Loopback is the default; an address that other machines reach needs a key.
"""

from __future__ import annotations

import errno
import ipaddress
import socket

from configs.errors import InputError


def bind(
    host: str = "127.0.0.1", port: int = 8000, *, api_key: str | None = None, public: bool = False
) -> socket.socket:
    """A listening socket, or InputError: the port is taken, the host unknown or open to others.

    Call it before loading a model, which may take minutes. `public` allows a host that other
    machines reach without an `api_key`.
    """
    if not 0 <= port < 65536:
        raise InputError(f"--port {port}: must be between 0 and 65535")
    if api_key is not None and not api_key:
        raise InputError("--api-key: is empty; give a key, or leave the option out")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise InputError(f"--host {host}: no such host; try 127.0.0.1") from None
    if not (ipaddress.ip_address(address[0]).is_loopback or api_key or public):
        raise InputError(
            f"--host {host}: others could reach this without a key; give --api-key KEY, "
            "keep --host 127.0.0.1, or say --public if everyone may"
        )
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise InputError(_refused(error, host, port, family, str(address[0]))) from None
    return listener


def _refused(error: OSError, host: str, port: int, family: int, address: str) -> str:
    if error.errno == errno.EADDRINUSE:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
            free = probe.getsockname()[1]
        return f"--port {port}: is in use on {host}; {free} is free: --port {free}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"--port {port}: needs rights you do not have; take one above 1023"
    return f"--host {host}: cannot listen there: {error.strerror}"
