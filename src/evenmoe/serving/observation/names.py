"""Every metric that a server with evenmoe shows: its name, what kind it is, what it means, its labels.

What is shown, what the dashboard draws and what `evenmoe top` reads are all stated by these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram", "info"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric, under the name by which it is asked for (of a histogram: without _bucket, _sum, _count)."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """The name without the suffix that its kind adds."""
        return self.name.removesuffix({"counter": "_total", "info": "_info"}.get(self.kind, ""))

    @property
    def series(self) -> dict[str, tuple[str, ...]]:
        """The names that samples have, with their labels."""
        if self.kind != "histogram":
            return {self.name: self.labels}
        return {
            f"{self.name}_bucket": (*self.labels, "le"),
            f"{self.name}_sum": self.labels,
            f"{self.name}_count": self.labels,
        }


STAGES = ("asked", "ran")
"""Pairs as the model's router asked for them, and as they ran after the policy, substitutes included."""

EXPERT_PAIRS = Metric(
    name="evenmoe_expert_pairs_total",
    kind="counter",
    help="Token-expert pairs of the experts that each device holds, by MoE layer.",
    labels=("layer", "device", "stage"),
)
BUSIEST_DEVICE_PAIRS = Metric(
    name="evenmoe_busiest_device_pairs_total",
    kind="counter",
    help="Sum over steps of the busiest device's pairs in the step: what all others wait for.",
    labels=("layer", "stage"),
)
EVEN_DEVICE_PAIRS = Metric(
    name="evenmoe_even_device_pairs_total",
    kind="counter",
    help="Sum over steps of a device's pairs if all that were asked for were spread evenly.",
    labels=("layer",),
)
BUSIEST_EXPERT_PAIRS = Metric(
    name="evenmoe_busiest_expert_pairs_total",
    kind="counter",
    help="Sum over steps of the busiest expert's pairs in the step.",
    labels=("layer", "stage"),
)
EVEN_EXPERT_PAIRS = Metric(
    name="evenmoe_even_expert_pairs_total",
    kind="counter",
    help="Sum over steps of an expert's pairs if those of the stage were spread evenly.",
    labels=("layer", "stage"),
)
PAIRS_ASKED = Metric(
    name="evenmoe_pairs_asked_total",
    kind="counter",
    help="Top-k assignments that the model's router asked for.",
    labels=("layer",),
)
PAIRS_KEPT = Metric(
    name="evenmoe_pairs_kept_total",
    kind="counter",
    help="Top-k assignments that ran; the others were dropped. Substitutes do not count.",
    labels=("layer",),
)
LAYER_TOKENS = Metric(
    name="evenmoe_layer_tokens_total",
    kind="counter",
    help="Tokens that passed the MoE layer.",
    labels=("layer",),
)
TOKENS_WITHOUT_EXPERT = Metric(
    name="evenmoe_tokens_without_expert_total",
    kind="counter",
    help="Tokens of which no routed expert ran in the layer.",
    labels=("layer",),
)
ROUTED_TOKENS = Metric(
    name="evenmoe_routed_tokens_total",
    kind="counter",
    help="Tokens of all counted steps, of prompts and new.",
)
ROUTED_STEPS = Metric(
    name="evenmoe_routed_steps_total", kind="counter", help="Forwards of the model that are counted."
)
ROUTED_REQUESTS = Metric(
    name="evenmoe_routed_requests_total",
    kind="counter",
    help="Requests that began in the counted steps, or fewer. Grows by evenmoe_least_requests at least, or not.",
)
STRAGGLER_FACTOR = Metric(
    name="evenmoe_straggler_factor",
    kind="gauge",
    help="Busiest device over the even load of all asked pairs, since the start, over steps and layers.",
    labels=("stage",),
)
LAYER_EXPERTS = Metric(
    name="evenmoe_layer_experts",
    kind="gauge",
    help="Experts of the MoE layer, and the layer's name in the model.",
    labels=("layer", "name"),
)
LEAST_REQUESTS = Metric(
    name="evenmoe_least_requests",
    kind="gauge",
    help="Loads are told as sums over at least this many further requests.",
)
REQUESTS_WAITING = Metric(
    name="evenmoe_requests_waiting", kind="gauge", help="Requests that the scheduler has not admitted yet."
)
REQUESTS_RUNNING = Metric(
    name="evenmoe_requests_running",
    kind="gauge",
    help="Requests that the scheduler has admitted and not ended.",
)
REQUESTS_ADMITTED = Metric(
    name="evenmoe_requests_admitted_total", kind="counter", help="Requests that left the queue to run."
)
PASSED_OVER = Metric(
    name="evenmoe_passed_over_steps",
    kind="histogram",
    help="Steps that admitted a younger request first, of each admitted request.",
)
SCHEDULING_SECONDS = Metric(
    name="evenmoe_scheduling_seconds",
    kind="histogram",
    help="Seconds of one step's decision about the queue, predictions and feedback included.",
)
PREDICTION_ERROR = Metric(
    name="evenmoe_prediction_error",
    kind="gauge",
    help="1 - recent mean cosine of predicted and observed loads.",
    labels=("predictor",),
)
FEEDBACK_COMPARISONS = Metric(
    name="evenmoe_feedback_comparisons_total",
    kind="counter",
    help="Comparisons of predicted with observed loads over the same tokens.",
)
FEEDBACK_UNALIGNED = Metric(
    name="evenmoe_feedback_unaligned_total",
    kind="counter",
    help="Observed loads that could not be matched with predictions.",
)
CONFIG = Metric(
    name="evenmoe_config_info",
    kind="info",
    help="What the server was started with.",
    labels=(
        "version",
        "engine",
        "policy",
        "gamma",
        "phases",
        "devices",
        "strategy",
        "predictor",
    ),
)

METRICS: tuple[Metric, ...] = (
    EXPERT_PAIRS,
    BUSIEST_DEVICE_PAIRS,
    EVEN_DEVICE_PAIRS,
    BUSIEST_EXPERT_PAIRS,
    EVEN_EXPERT_PAIRS,
    PAIRS_ASKED,
    PAIRS_KEPT,
    LAYER_TOKENS,
    TOKENS_WITHOUT_EXPERT,
    ROUTED_TOKENS,
    ROUTED_STEPS,
    ROUTED_REQUESTS,
    STRAGGLER_FACTOR,
    LAYER_EXPERTS,
    LEAST_REQUESTS,
    REQUESTS_WAITING,
    REQUESTS_RUNNING,
    REQUESTS_ADMITTED,
    PASSED_OVER,
    SCHEDULING_SECONDS,
    PREDICTION_ERROR,
    FEEDBACK_COMPARISONS,
    FEEDBACK_UNALIGNED,
    CONFIG,
)
"""All of them, in the order in which they are shown."""
