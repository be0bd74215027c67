"""Routing policies: which (token, expert) pairs of one MoE layer run. Pure functions on tensors [tokens, experts]."""

from evenmoe.routing.baseline import Baseline
from evenmoe.routing.capacity import capacity
from evenmoe.routing.context import RoutingContext, contiguous_split
from evenmoe.routing.expanded_drop import ExpandedDrop
from evenmoe.routing.expert_drop import ExpertDrop
from evenmoe.routing.expert_modality import ExpertModality, read_expert_modality, write_expert_modality
from evenmoe.routing.fill import Fill
from evenmoe.routing.groups import Isolation, Level, Scope
from evenmoe.routing.locations import device_of_pair
from evenmoe.routing.macs import Macs
from evenmoe.routing.policy import Policy
from evenmoe.routing.priority import Keep, Modality
from evenmoe.routing.registry import POLICIES, make_policy, option_names
from evenmoe.routing.threshold_drop import ThresholdDrop
from evenmoe.routing.token_drop import TokenDrop

__all__ = [
    "POLICIES",
    "Baseline",
    "ExpandedDrop",
    "ExpertDrop",
    "ExpertModality",
    "Fill",
    "Isolation",
    "Keep",
    "Level",
    "Macs",
    "Modality",
    "Policy",
    "RoutingContext",
    "Scope",
    "ThresholdDrop",
    "TokenDrop",
    "capacity",
    "contiguous_split",
    "device_of_pair",
    "make_policy",
    "option_names",
    "read_expert_modality",
    "write_expert_modality",
]
