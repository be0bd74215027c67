"""Addresses: a free port, whether one is taken, the URL, and whether the server behind it answers."""

from __future__ import annotations

import http.client
import socket

from evenmoe.errors import ConfigError

ANY = ("0.0.0.0", "::")


def claim_port(host: str, port: int) -> int:
    """Return `port`, or a free one for 0. Raises ConfigError naming host or port if it cannot be listened on."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ConfigError("host", host, f"an address of this machine ({error.strerror})") from error
    with socket.socket(family, kind, protocol) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
            listener.listen(1)
        except PermissionError as error:
            raise ConfigError("port", port, "one that this user may listen on, such as 8000") from error
        except OSError as error:
            if port and error.errno is not None and "in use" in str(error):
                raise ConfigError("port", port, "one that nobody listens on; 0 takes a free one") from error
            raise ConfigError("host", host, f"an address of this machine ({error.strerror})") from error
        return int(listener.getsockname()[1])


def url_of(host: str, port: int) -> str:
    """Where a client on this machine reaches a server that is bound to `host`."""
    if host in ANY:
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_healthy(url: str, timeout_s: float = 2.0) -> bool:
    """Whether /health answers 200."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=timeout_s)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
