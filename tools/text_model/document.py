"""A document: the unit of text that is either trained on or held out, never both."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text with a stable name, unique in its domain."""

    name: str
    text: str
    notice: str = ""
    """Who holds its copyright, where that differs from one document to the next."""


def name_fraction(name: str) -> float:
    """Map a name to a number in [0, 1) that depends on nothing but the name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
