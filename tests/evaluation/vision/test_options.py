"""Options by name, as harnesses hand them on: how what is not allowed is named."""

import pytest

from evenmoe.errors import ConfigError
from evenmoe.evaluation.vision.options import config_of


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"pretrained": "x", "capacity": 1}, "p: capacity"),
        ({"policy": "token_drop"}, "p: pretrained"),
        ({"pretrained": "x", "batch_size": "auto"}, "p: batch_size"),
        ({"pretrained": "x", "devices": 0}, "p: devices"),
        ({"pretrained": "x", "level": "rack"}, "p: level"),
        ({"pretrained": "x", "policy": "token_drop"}, "gamma"),
        ({"pretrained": "x", "policy": "token_drop", "gamma": -1}, "p: gamma"),
    ],
)
def test_what_is_not_allowed_is_named(options, name):
    with pytest.raises(ConfigError) as refused:
        config_of(options, "p: ")
    assert refused.value.field == name
