"""Strategies that are an order: take from the front until the batch is full. Shape letter: W requests."""

from __future__ import annotations

import numpy as np

from evenmoe.scheduling.picking import Picking
from evenmoe.scheduling.window import Ints, Window


def fcfs(window: Window, picking: Picking) -> None:
    """First come, first served."""
    picking.take_in_order(range(len(window)))


def random(window: Window, picking: Picking, rng: np.random.Generator) -> None:
    """Uniform without replacement."""
    picking.take_in_order(rng.permutation(len(window)).tolist())


def lpt(window: Window, picking: Picking) -> None:
    """Longest processing time first: the largest total load, ties by age."""
    picking.take_in_order(by_total(window).tolist())


def by_total(window: Window) -> Ints:
    """[W]: requests from the largest total load down, ties by age."""
    return (-window.total_W).argsort(kind="stable")
