"""ClientLoads: refuses requests with a bad `expert_load` in the HTTP server, before the engine sees them.

For `--logits-processors evenmoe.serving.vllm.client_loads:ClientLoads`: a logits processor is what vLLM lets check a
request's extra arguments. It is no entry point, since vLLM would load that in every server, also in those without
evenmoe's configuration, and refuse to start where its other model runner is used. It touches no logits.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.sample.logits_processor.interface import LogitsProcessor
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsProcessor as RunnerV2LogitsProcessor

from evenmoe.serving.admission import Shape, client_load
from evenmoe.serving.observation.loads_file import read_loads_snapshot
from evenmoe.serving.observation.spool import Spool


class ClientLoads(LogitsProcessor, RunnerV2LogitsProcessor):  # type: ignore[misc]
    """Checks `vllm_xargs: {"expert_load": [...]}` of each request, under either of vLLM's model runners."""

    _shape: Shape | None = None
    """Of the served model, once a worker has said it."""

    def __init__(self, *args: Any) -> None:
        """Keep nothing of what either model runner passes."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise ConfigError, a ValueError and so a 400, which names what is wrong with the request's load."""
        arguments = sampling_params.extra_args
        if not arguments:
            return
        shape = cls._served_shape()
        client_load(arguments, None if shape is None else shape.num_entries)

    @classmethod
    def _served_shape(cls) -> Shape | None:
        if cls._shape is None:
            spool = Spool.inherited()
            snapshot = None if spool is None else read_loads_snapshot(spool)
            cls._shape = None if snapshot is None else Shape.of(snapshot.loads)
        return cls._shape

    def is_argmax_invariant(self) -> bool:
        """It changes nothing."""
        return True

    def update_state(self, batch_update: Any) -> None:
        """It keeps nothing."""

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """No request's logits are changed."""
        return False

    def apply(self, logits: Any, ctx: Any = None) -> Any:
        """The same logits."""
        return logits
