"""An open-loop client for OpenAI-compatible servers: it sends traffic and measures what a user would see."""

from evenmoe.serving.load.client import ClientOptions, run_load, served_model
from evenmoe.serving.load.plan import Planned, num_repeated, plan_load, topic_mix
from evenmoe.serving.load.record import Record
from evenmoe.serving.load.results import LoadResult, summarise
from evenmoe.serving.load.texts import heldout_texts, prompts_of_texts

__all__ = [
    "ClientOptions",
    "LoadResult",
    "Planned",
    "Record",
    "heldout_texts",
    "num_repeated",
    "plan_load",
    "prompts_of_texts",
    "run_load",
    "served_model",
    "summarise",
    "topic_mix",
]
