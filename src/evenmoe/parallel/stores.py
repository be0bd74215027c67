"""The key-value store in which ranks meet: torch's TCPStore, which one process serves and the others connect to."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from evenmoe.errors import ConfigError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store, TCPStore

_BACKLOG = 2048
"""Connections that may wait to be taken; the system may allow fewer."""

_SOURCE_POSITION = re.compile(r"^\[\S+:\d+\] ")


def serve_store(host: str, port: int, field: str, timeout_s: float) -> TCPStore:
    """Open a store on `port` (0: any free one). Raises ConfigError naming `field` where it cannot be listened on.

    It listens on the loopback alone if `host` says so, otherwise on every address: a host's own name may mean its
    loopback here and not elsewhere.
    """
    try:
        listening = _listen(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(field, port, "a free port: another process listens on this one") from error
        raise ConfigError(field, port, f"a port that can be listened on: {error}") from error
    with listening:
        chosen = listening.getsockname()[1]
        return _tcp_store(
            host, chosen, timeout_s, is_master=True, master_listen_fd=os.dup(listening.fileno())
        )


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket of IPv4 where `host` has such an address.

    torch's own is of IPv6 and takes IPv4 too. Then 127.0.0.1 arrives under a name that no hosts file has, torch looks
    each connection up in the DNS before it serves the next, and a lost answer stops the store for five seconds.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address[0] if _is_loopback(host) else "", port))
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def connect_store(host: str, port: int, timeout_s: float) -> TCPStore:
    """Connect to a store; retries for `timeout_s` seconds, then raises torch's RuntimeError."""
    return _tcp_store(host, port, timeout_s, is_master=False)


def section(store: Store, prefix: str) -> Store:
    """The part of a store whose keys begin with `prefix`."""
    found: Store = dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]
    return found


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without the source positions and C++ stack traces that torch adds."""
    lines = str(error).splitlines() or [type(error).__name__]
    return _SOURCE_POSITION.sub("", lines[0]).split(". This is typically caused")[0].strip()


def _tcp_store(host: str, port: int, timeout_s: float, **role: Any) -> TCPStore:
    found: TCPStore = dist.TCPStore(  # type: ignore[attr-defined]
        host, port, wait_for_workers=False, timeout=timedelta(seconds=timeout_s), **role
    )
    return found
