"""Configuration files: CAPS's JSON and our TOML; what is unknown or not allowed is named."""

import json

import pytest

from evenmoe.errors import ConfigError, FileFormatError
from evenmoe.scheduling import SchedulerConfig, config_of, read_config

CAPS = {
    "model_name": "Qwen/Qwen1.5-MoE-A2.7B",
    "quantization": "int4",
    "num_experts": 60,
    "top_k_experts": 4,
    "scheduler": {
        "max_batch_size": 8,
        "window_size": 32,
        "min_batch_trigger": 16,
        "scheduling_interval_ms": 100,
        "strategy": "greedy_variance",
    },
}
TOML = """
num_experts = 64
top_k_experts = 8

[scheduler]
token_budget = 4096
max_passed_over = 5
strategy = "auto"
num_layers = 3

[scheduler.options]
min_gain = 0.05
"""


def test_the_defaults_are_those_of_caps():
    config = SchedulerConfig()
    trigger = config.min_batch_trigger, config.scheduling_interval_ms
    assert (config.max_batch_size, config.window_size, *trigger) == (8, 32, 16, 100.0)


def test_both_files_are_read(tmp_path):
    caps, ours = tmp_path / "caps.json", tmp_path / "ours.toml"
    caps.write_text(json.dumps(CAPS))
    ours.write_text(TOML)
    config = read_config(caps)
    assert (config.model_name, config.quantization) == ("Qwen/Qwen1.5-MoE-A2.7B", "int4")
    assert (config.num_experts, config.top_k_experts) == (60, 4)
    assert config.scheduler == SchedulerConfig(strategy="greedy_variance", scheduling_interval_ms=100)
    scheduler = read_config(ours).scheduler
    assert (scheduler.token_budget, scheduler.max_passed_over, scheduler.num_layers) == (4096, 5, 3)
    assert scheduler.options.min_gain == 0.05
    assert scheduler.window_size == 32


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"modelname": "x"}, "modelname"),
        ({"num_experts": 0}, "num_experts"),
        ({"num_experts": 4, "top_k_experts": 5}, "top_k_experts"),
        ({"model_name": 3}, "model_name"),
        ({"quantization": 4}, "quantization"),
        ({"scheduler": 3}, "scheduler"),
        ({"scheduler": {"window": 3}}, "scheduler.window"),
        ({"scheduler": {"max_batch_size": "8"}}, "scheduler.max_batch_size"),
        ({"scheduler": {"max_batch_size": True}}, "scheduler.max_batch_size"),
        ({"scheduler": {"max_batch_size": 64}}, "scheduler.window_size"),
        ({"scheduler": {"scheduling_interval_ms": -1}}, "scheduler.scheduling_interval_ms"),
        ({"scheduler": {"scheduling_interval_ms": float("nan")}}, "scheduler.scheduling_interval_ms"),
        ({"scheduler": {"token_budget": 0}}, "scheduler.token_budget"),
        ({"scheduler": {"strategy": "best"}}, "scheduler.strategy"),
        ({"scheduler": {"options": {"min_gain": 2.0}}}, "scheduler.options.min_gain"),
        ({"scheduler": {"options": {"min_gain": "much"}}}, "scheduler.options.min_gain"),
        ({"scheduler": {"options": {"d": 8}}}, "scheduler.options.d"),
        ([], "scheduler config"),
    ],
)
def test_what_is_not_allowed_is_named_from_the_top_of_the_file(body, field):
    with pytest.raises(ConfigError) as caught:
        config_of(body)
    assert caught.value.field == field
    assert caught.value.allowed


def test_files_that_cannot_be_parsed_are_named(tmp_path):
    for name in ("broken.json", "broken.toml"):
        (tmp_path / name).write_text("{")
        with pytest.raises(FileFormatError, match=name):
            read_config(tmp_path / name)
    with pytest.raises(ConfigError, match="yaml"):
        read_config(tmp_path / "x.yaml")
    with pytest.raises(FileNotFoundError):
        read_config(tmp_path / "none.json")
