"""What a client may say of its request's load."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evenmoe.errors import ConfigError
from evenmoe.serving.admission import client_load


def test_a_load_is_taken_as_it_is():
    assert client_load({"expert_load": [0, 1.5, 2, 3], "other": 1}, 4).tolist() == [0, 1.5, 2, 3]
    assert client_load({"expert_load": [1, 2]}, None).tolist() == [1, 2]
    assert client_load({"other": 1}, 4) is None
    assert client_load(None, 4) is None


@pytest.mark.parametrize(
    ("load", "named"),
    [
        ([1, 2, 3], "'3 numbers' is not allowed: 4 numbers"),
        ([1, 2, 3, math.nan], r"expert_load\[3\] = nan is not allowed: a finite number of at least 0"),
        ([1, 2, math.inf, 4], r"expert_load\[2\] = inf"),
        ([1, -0.5, 3, 4], r"expert_load\[1\] = -0\.5"),
        ([1, "2", 3, 4], r"expert_load\[1\] = '2'"),
        ([True, 2, 3, 4], r"expert_load\[0\] = True"),
        ([[1], 2, 3, 4], r"expert_load\[0\] = \[1\]"),
        ([1, 2, 3, None], r"expert_load\[3\] = None"),
        ([10**400, 2, 3, 4], r"expert_load\[0\] = .*\.\.\."),
        ([1e39, 2, 3, 4], r"expert_load\[0\] = 1e\+39"),
        ("1234", "expert_load = '1234' is not allowed: a list of numbers"),
        (7, "expert_load = 7"),
        ({"a": 1}, "expert_load = "),
        (None, "expert_load = None"),
    ],
)
def test_what_is_no_load_is_named(load, named):
    with pytest.raises(ConfigError, match=named) as refused:
        client_load({"expert_load": load}, 4)
    assert len(str(refused.value)) < 300


def test_an_empty_load_says_nothing():
    with pytest.raises(ConfigError, match="expert_load"):
        client_load({"expert_load": []}, None)


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(anything)
def test_nothing_else_gets_through(load):
    try:
        checked = client_load({"expert_load": load}, 4)
    except ConfigError:
        return
    assert checked.shape == (4,)
    assert all(math.isfinite(value) and value >= 0 for value in checked)
