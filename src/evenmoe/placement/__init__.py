"""Placement: which devices hold which experts, how to find a good one, and the files that keep it. numpy only."""

from evenmoe.placement.files import read_placement, write_placement
from evenmoe.placement.placement import Placement

__all__ = ["Placement", "read_placement", "write_placement"]
