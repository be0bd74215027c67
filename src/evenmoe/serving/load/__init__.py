"""An open-loop client for OpenAI-compatible servers: it replays a trace and measures what a user would see."""

from evenmoe.serving.load.client import ClientOptions, run_load
from evenmoe.serving.load.plan import Planned, plan_load
from evenmoe.serving.load.record import Record
from evenmoe.serving.load.results import LoadResult, summarise

__all__ = ["ClientOptions", "LoadResult", "Planned", "Record", "plan_load", "run_load", "summarise"]
