"""Options of lmms-eval's model `evenmoe`: what is read, and what is refused by name."""

import math

import pytest

from evenmoe.errors import ConfigError
from evenmoe.evaluation.scoring import EvalConfig
from evenmoe.evaluation.vision.lmms_eval import TASKS_PATH
from evenmoe.evaluation.vision.options import FIELD_OF, config_of


def test_every_option_sets_its_field():
    config = config_of(
        {
            "pretrained": "bundled:vlm",
            "policy": '"token_drop:keep=random,modality=image-first"',
            "gamma": "inf",
            "devices": 4,
            "scope": "global",
            "level": "device",
            "isolation": "request",
            "phases": "prefill",
            "min_tokens": 8,
            "batch_size": "12",
            "dtype": "bfloat16",
            "quantization": "nf4",
            "seed": 3,
        }
    )
    assert config.model == "bundled:vlm"
    assert config.policy.options == {"keep": "random", "modality": "image-first"}
    assert math.isinf(config.gamma)
    assert (config.num_devices, config.min_tokens, config.batch_size, config.seed) == (4, 8, 12, 3)
    assert (config.scope, config.level, config.isolation) == ("global", "device", "request")
    assert (config.phases, config.dtype, config.quantization) == ("prefill", "bfloat16", "nf4")


def test_what_is_left_out_is_the_default_of_an_evaluation():
    assert config_of({"pretrained": "x"}) == EvalConfig(model="x", tasks=())


def test_options_name_fields_that_exist():
    assert set(FIELD_OF.values()) <= set(EvalConfig.model_fields)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"pretrained": "x", "gama": 1.0}, "gama"),
        ({"gamma": 1.0}, "pretrained"),
        ({"pretrained": "x", "policy": "token_drop:keeps=random", "gamma": 1.0}, "keeps"),
        ({"pretrained": "x", "policy": "tokendrop"}, "tokendrop"),
        ({"pretrained": "x", "policy": "token_drop"}, "gamma"),
        ({"pretrained": "x", "policy": "token_drop", "gamma": -1}, "gamma"),
        ({"pretrained": "x", "devices": 0}, "devices"),
        ({"pretrained": "x", "scope": "everywhere"}, "scope"),
        ({"pretrained": "x", "batch_size": "auto"}, "batch_size"),
    ],
)
def test_an_option_that_cannot_act_is_named(options, field):
    with pytest.raises(ConfigError, match=field):
        config_of(options)


def test_the_tasks_ship_with_the_package():
    assert sorted(path.name for path in TASKS_PATH.glob("*.yaml")) == [
        "evenmoe_scenes.yaml",
        "evenmoe_scenes_choice.yaml",
    ]
