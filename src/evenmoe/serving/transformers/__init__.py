"""evenmoe in transformers' continuous batching.

Importing it registers `ContinuousBatchingConfig(scheduler_type="evenmoe")`.
"""

from evenmoe.serving.transformers.configuring import Configured, configured
from evenmoe.serving.transformers.errors import EngineError
from evenmoe.serving.transformers.generating import Generated, generate_batch
from evenmoe.serving.transformers.scheduler import ExpertAwareScheduler
from evenmoe.serving.transformers.session import ServingSession

__all__ = [
    "Configured",
    "EngineError",
    "ExpertAwareScheduler",
    "Generated",
    "ServingSession",
    "configured",
    "generate_batch",
]
