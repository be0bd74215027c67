"""evenmoe inside vLLM, through its public registries. Pinned to the version that the extra `serve` names."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """`ExpertAwareScheduler`, which needs vLLM; the rest of this package is looked up by module."""
    if name == "ExpertAwareScheduler":
        from evenmoe.serving.vllm.scheduler import ExpertAwareScheduler

        return ExpertAwareScheduler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
