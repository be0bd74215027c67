"""The entry point `vllm.general_plugins`: vLLM calls it in each of its processes."""

from __future__ import annotations

import logging
from importlib.util import find_spec

logger = logging.getLogger(__name__)


def register() -> None:
    """Give vLLM our layers, and its metrics our exporter. Without a configuration they do what vLLM's own do.

    A version of vLLM that lacks what they stand on is left as it is, which is logged as an error.
    """
    if find_spec("vllm") is None:
        return
    try:
        from vllm.model_executor.custom_op import op_registry_oot

        from evenmoe.serving.vllm import layers
        from evenmoe.serving.vllm.exporter import export_metrics
    except ImportError as error:
        logger.error(
            'evenmoe does not know this vLLM; "evenmoe" in additional_config is not acted on: %s', error
        )
        return
    from evenmoe.serving.observation.spool import Spool

    for theirs, ours in layers.REPLACED.items():
        if op_registry_oot.get(theirs.__name__) is not ours:
            theirs.register_oot(ours)
    export_metrics(Spool.ensured())


def _version() -> str:
    import vllm

    return getattr(vllm, "__version__", "another")
