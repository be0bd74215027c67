"""Expert parallelism over several processes: the group of ranks, how they are launched, and what they exchange.

The package imports nothing heavy by itself; the names below load what they need when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evenmoe.parallel.group import Group
    from evenmoe.parallel.joining import init
    from evenmoe.parallel.launching import launch

_HOME = {
    "Group": "evenmoe.parallel.group",
    "init": "evenmoe.parallel.joining",
    "launch": "evenmoe.parallel.launching",
    "ExpertParallel": "evenmoe.parallel.sharding",
    "shard": "evenmoe.parallel.sharding",
    "gather_loads": "evenmoe.parallel.gathering",
    "split_batch": "evenmoe.parallel.splitting",
}

__all__ = ["ExpertParallel", "Group", "gather_loads", "init", "launch", "shard", "split_batch"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(
            f"module 'evenmoe.parallel' has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
