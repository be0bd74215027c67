"""Placement: which devices hold which experts, how to find a good one, and the files that keep it. numpy only."""

from evenmoe.placement.comparison import MethodResult, compare_methods, recommend, straggler_factors
from evenmoe.placement.domain_loads import DomainLoads
from evenmoe.placement.files import read_placement, write_placement
from evenmoe.placement.methods import METHODS, FitSettings, Method, fit_placement
from evenmoe.placement.placement import Placement

__all__ = [
    "METHODS",
    "DomainLoads",
    "FitSettings",
    "Method",
    "MethodResult",
    "Placement",
    "compare_methods",
    "fit_placement",
    "read_placement",
    "recommend",
    "straggler_factors",
    "write_placement",
]
