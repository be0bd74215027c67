"""What may be configured, and that everything else stops with an error that names it."""

import json
import math

import pytest

from evenmoe.errors import ConfigError, FileFormatError
from evenmoe.routing import Fill, TokenDrop
from evenmoe.serving.config import ServingConfig, read_serving_config, serving_config_of


def test_nothing_configured_limits_nothing():
    config = serving_config_of({})
    assert config == ServingConfig()
    assert config.routing.build() == TokenDrop(gamma=math.inf)


def test_a_policy_with_its_settings():
    config = serving_config_of(
        {"routing": {"policy": "fill", "gamma": 1.5, "options": {"isolation": "request"}}}
    )
    assert config.routing.build() == Fill(gamma=1.5, isolation="request")


def test_the_configuration_survives_json():
    config = serving_config_of({"routing": {"gamma": "inf"}, "metrics": {"least_requests": 3}})
    assert serving_config_of(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ([], "evenmoe ="),
        ({"rooting": {}}, r"evenmoe\.rooting.*routing, scheduling, metrics"),
        ({"routing": {"gama": 1.5}}, r"evenmoe\.routing\.gama.*policy, gamma"),
        ({"routing": {"gamma": 0}}, r"evenmoe\.routing\.gamma = 0 .*greater than 0"),
        ({"routing": {"gamma": "1.5"}}, r"evenmoe\.routing\.gamma = '1\.5'"),
        ({"routing": {"gamma": math.nan}}, r"evenmoe\.routing\.gamma = nan"),
        ({"routing": {"policy": "drop"}}, r"evenmoe\.routing\.policy = 'drop'.*token_drop"),
        ({"routing": {"options": {"keep": "best"}}}, r"evenmoe\.routing\.keep = 'best'.*score, first"),
        ({"routing": {"options": {"kept": "score"}}}, r"evenmoe\.routing\.kept"),
        ({"routing": {"policy": "expert_drop", "gamma": 2}}, r"evenmoe\.routing\.gamma.*no capacity"),
        ({"routing": {"num_devices": 2.5}}, r"evenmoe\.routing\.num_devices"),
        (
            {"routing": {"policy": "fill", "num_devices": 2, "options": {"isolation": "strict"}}},
            r"evenmoe\.routing\.num_devices = 2 .*1 with fill and isolation = 'strict'",
        ),
        ({"scheduling": {"strategy": "best"}}, r"evenmoe\.scheduling\.strategy = 'best'.*fcfs"),
        ({"scheduling": {"predictor": "token-prior"}}, r"evenmoe\.scheduling\.prior = None"),
        ({"scheduling": {"strategy": "lpt"}}, r"evenmoe\.scheduling\.predictor = 'none'.*with strategy lpt"),
        (
            {"scheduling": {"options": {"exchanges": 1.5}}},
            r"evenmoe\.scheduling\.options\.exchanges = 1\.5.*integer",
        ),
        ({"scheduling": {"options": {"num_choices": 4}}}, r"options\.num_choices = 4.*auto has exchanges"),
        (
            {"scheduling": {"strategy": "fcfs", "options": {"min_gain": 0.1}}},
            r"options\.min_gain = 0\.1.*fcfs has none",
        ),
        ({"scheduling": {"prior": "p.npz"}}, r"evenmoe\.scheduling\.prior = 'p\.npz'"),
        ({"metrics": {"enabled": 1}}, r"evenmoe\.metrics\.enabled = 1"),
        ({"metrics": {"least_requests": 0}}, r"evenmoe\.metrics\.least_requests = 0"),
    ],
)
def test_what_cannot_act_is_named(body, named):
    with pytest.raises(ConfigError, match=named):
        serving_config_of(body)


def test_a_toml_file(tmp_path):
    path = tmp_path / "evenmoe.toml"
    path.write_text('[routing]\ngamma = "inf"\n[scheduling]\nstrategy = "random"\n', encoding="utf-8")
    assert read_serving_config(path).scheduling.strategy == "random"
    path.write_text("[routing\n", encoding="utf-8")
    with pytest.raises(FileFormatError, match=r"evenmoe\.toml is not a TOML file"):
        read_serving_config(path)
    with pytest.raises(FileNotFoundError):
        read_serving_config(tmp_path / "none.toml")
