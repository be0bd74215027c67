"""Tiny jobs that the tests of `bench model` share."""

from evenmoe.bench.job import Setting
from evenmoe.bench.model_job import ModelJob, random_ids
from evenmoe.bench.model_random import VOCAB, RandomModel
from evenmoe.bench.shares import synthetic_shares
from evenmoe.costs import LayerShape
from evenmoe.routing import Baseline, Fill, TokenDrop

SETTINGS = (
    Setting(label="No limit", policy=Baseline()),
    Setting(label="Token Drop", policy=TokenDrop(gamma=1.0), gamma=1.0),
    Setting(label="Fill", policy=Fill(gamma=1.0), gamma=1.0),
)
TOP_K = {"olmoe": 4, "mixtral": 2, "qwen1.5-moe": 4, "deepseek-v2-lite": 4}


def tiny_model(name: str = "olmoe", num_layers: int = 2) -> RandomModel:
    """8 experts, the busiest with 1.8 times the mean."""
    shape = LayerShape(
        name=name,
        hidden=32,
        intermediate=16,
        num_experts=8,
        top_k=TOP_K[name],
        shared_intermediate=32 if name in ("qwen1.5-moe", "deepseek-v2-lite") else 0,
        num_devices=2,
    )
    return RandomModel(shape=shape, shares=synthetic_shares(8, TOP_K[name], 1.8), num_layers=num_layers)


def tiny_job(name: str = "olmoe", **changes) -> ModelJob:
    """Two devices with two rows each of 12 tokens, the last 3 of which are decoded."""
    options = {
        "source": tiny_model(name),
        "ids_BS": random_ids(4, 12, VOCAB, 0),
        "num_prompt": 9,
        "num_devices": 2,
        "settings": SETTINGS,
        "repeats": 2,
    }
    return ModelJob(**options | changes)
