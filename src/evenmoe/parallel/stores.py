"""The key-value store in which ranks meet: torch's TCPStore, which one process serves and the others connect to."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

import torch.distributed as dist

from evenmoe.errors import ConfigError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store, TCPStore

_SOURCE_POSITION = re.compile(r"^\[\S+:\d+\] ")


def serve_store(host: str, port: int, field: str, timeout_s: float) -> TCPStore:
    """Open a store on `port` (0: any free one). Raises ConfigError naming `field` where it cannot be listened on."""
    try:
        return _tcp_store(host, port, timeout_s, is_server=True)
    except RuntimeError as error:
        if "EADDRINUSE" in str(error) or "address already in use" in str(error):
            raise ConfigError(field, port, "a free port: another process listens on this one") from error
        raise ConfigError(field, port, f"a port that can be listened on: {first_line(error)}") from error


def connect_store(host: str, port: int, timeout_s: float) -> TCPStore:
    """Connect to a store; retries for `timeout_s` seconds, then raises torch's RuntimeError."""
    return _tcp_store(host, port, timeout_s, is_server=False)


def section(store: Store, prefix: str) -> Store:
    """The part of a store whose keys begin with `prefix`."""
    found: Store = dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]
    return found


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without the source positions and C++ stack traces that torch adds."""
    lines = str(error).splitlines() or [type(error).__name__]
    return _SOURCE_POSITION.sub("", lines[0]).split(". This is typically caused")[0].strip()


def _tcp_store(host: str, port: int, timeout_s: float, *, is_server: bool) -> TCPStore:
    found: TCPStore = dist.TCPStore(  # type: ignore[attr-defined]
        host,
        port,
        is_master=is_server,
        wait_for_workers=False,
        timeout=timedelta(seconds=timeout_s),
    )
    return found
