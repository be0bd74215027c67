"""Redundant experts: the worked example of EPLB's README as a golden, and the copies against a slow version."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.errors import ConfigError
from evenmoe.placement.replicas import count_copies, hierarchical
from tests.oracles import placement as slow

# deepseek-ai/EPLB, README, "Interface and Example": two layers of 12 experts, 16 copies, 4 groups, 2 nodes, 8 GPUs
WEIGHT = [
    [90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86],
    [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27],
]
EXPERT_OF_COPY = [
    [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
    [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
]


def flat(devices):
    return [expert for experts in devices for expert in experts]


@pytest.mark.parametrize("layer", [0, 1])
def test_the_worked_example_of_eplb(layer):
    devices = hierarchical(WEIGHT[layer], num_copies=16, num_groups=4, num_nodes=2, num_devices=8)
    assert flat(devices) == EXPERT_OF_COPY[layer]
    assert [len(experts) for experts in devices] == [2] * 8


def test_the_global_form_is_one_group_and_one_node():
    devices = hierarchical([8, 2, 2, 4], num_copies=6, num_groups=1, num_nodes=1, num_devices=2)
    # a copy for 8, then, of the equal loads 4 4 (has a copy on both devices) and 4, for the last: 4 4 2 2 2 2
    assert sorted(flat(devices)) == [0, 0, 1, 2, 3, 3]
    assert [sum({0: 4, 1: 2, 2: 2, 3: 2}[expert] for expert in experts) for experts in devices] == [8, 8]


@given(st.lists(st.integers(0, 50), min_size=2, max_size=12), st.integers(2, 5), st.data())
def test_copies_against_the_slow_version(load_E, num_devices, data):
    replicas = data.draw(st.integers(0, len(load_E) * (num_devices - 1)))
    count_E = count_copies(np.array(load_E, dtype=np.float64), replicas, num_devices)
    assert count_E.tolist() == slow.copies_of_experts(load_E, replicas, num_devices)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_groups": 5}, "num_groups = 5 .* experts, 12"),
        ({"num_nodes": 3}, "num_nodes = 3 .* groups, 4"),
        ({"num_devices": 7}, "num_nodes = 2 .* devices, 7"),
        ({"num_copies": 15}, "num_devices = 8 .* copies, 15"),
        ({"num_copies": 8}, "replicas = -2"),
        ({"num_groups": 0}, "num_groups = 0"),
    ],
)
def test_what_does_not_divide_is_refused(options, message):
    good = {"num_copies": 16, "num_groups": 4, "num_nodes": 2, "num_devices": 8}
    with pytest.raises(ConfigError, match=message):
        hierarchical(WEIGHT[0], **(good | options))
