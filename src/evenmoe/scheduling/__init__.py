"""Scheduling: which requests share a batch, and which device's share of it each joins. numpy only."""

from evenmoe.scheduling.assignment import ASSIGN_METHODS, AssignMethod, assign
from evenmoe.scheduling.batch_scheduler import BatchScheduler
from evenmoe.scheduling.config import SchedulerConfig, SchedulingConfig, config_of, read_config
from evenmoe.scheduling.selecting import STRATEGIES, Options, Strategy, select
from evenmoe.scheduling.waiting import Scheduled
from evenmoe.scheduling.window import Window

__all__ = [
    "ASSIGN_METHODS",
    "STRATEGIES",
    "AssignMethod",
    "BatchScheduler",
    "Options",
    "Scheduled",
    "SchedulerConfig",
    "SchedulingConfig",
    "Strategy",
    "Window",
    "assign",
    "config_of",
    "read_config",
    "select",
]
