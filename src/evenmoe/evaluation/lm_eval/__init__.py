"""lm-eval with a routing policy: importing this package registers the model "evenmoe" with lm-eval (extra `eval`)."""

from evenmoe.evaluation.scoring.extras import require_extra

require_extra("eval", "lm_eval")

from evenmoe.evaluation.lm_eval.model import EvenMoELM  # noqa: E402
from evenmoe.evaluation.lm_eval.run import run_lm_eval  # noqa: E402

__all__ = ["EvenMoELM", "run_lm_eval"]
