"""evenmoe: make Mixture-of-Experts inference even.

The package imports nothing heavy by itself; the names below load what they need when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from evenmoe.version import __version__

if TYPE_CHECKING:
    from evenmoe.models.attach import attach
    from evenmoe.models.attached import Attached
    from evenmoe.models.bundled import bundled_tokenizer, load_bundled
    from evenmoe.models.loading import load

_HOME = {
    "attach": "evenmoe.models.attach",
    "Attached": "evenmoe.models.attached",
    "load": "evenmoe.models.loading",
    "load_bundled": "evenmoe.models.bundled",
    "bundled_tokenizer": "evenmoe.models.bundled",
}

__all__ = ["Attached", "__version__", "attach", "bundled_tokenizer", "load", "load_bundled"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'evenmoe' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
