"""The strategies: against their oracles, and what holds for any batch."""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.scheduling import STRATEGIES, Options, Window, greedy, peaks, select
from evenmoe.scheduling import window as window_module
from evenmoe.scheduling.picking import Limits, Picking
from tests.oracles import scheduling as slow

PUBLISHED = set(STRATEGIES) - {"peak_excess", "auto"}
DRAWING = {"random", "power_of_d", "power_of_d_dot"}
KEPT = ("greedy_variance", "greedy_dot_product", "norm_minimizing", "differencing", "peak_excess")
INVARIANT = ("greedy_variance", "greedy_dot_product", "norm_minimizing", "best_fit", "lpt", "peak_excess")


@st.composite
def windows(draw, most=14):
    """(loads as whole numbers [W][L * X], L, batch size); few values, so that there are ties."""
    num_layers, entries = draw(st.integers(1, 2)), draw(st.integers(1, 4))
    vector = st.lists(
        st.integers(0, draw(st.sampled_from([2, 60]))),
        min_size=num_layers * entries,
        max_size=num_layers * entries,
    )
    return draw(st.lists(vector, min_size=1, max_size=most)), num_layers, draw(st.integers(1, 5))


def run(name, loads, batch_size, seed=0, **options):
    return select(name, loads, batch_size, rng=np.random.default_rng(seed), **options).tolist()


def excess(loads, picked, num_layers):
    return slow.excess(slow.added([loads[i] for i in picked]), num_layers)


def test_all_of_caps_are_there_under_their_names():
    assert PUBLISHED == {
        *("fcfs", "random", "greedy_variance", "greedy_dot_product", "norm_minimizing", "best_fit"),
        *("differencing", "karmarkar_karp", "lpt", "lpt_balanced", "power_of_d", "power_of_d_dot"),
    }


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=40)
@given(windows())
def test_any_batch_has_the_oldest_and_each_request_once(name, case):
    loads, num_layers, size = case
    picked = run(name, loads, size, num_layers=num_layers)
    assert picked[0] == 0
    assert len(set(picked)) == len(picked) == min(size, len(loads))
    assert set(picked) <= set(range(len(loads)))
    assert picked == run(name, loads, size, num_layers=num_layers), "same seed, same batch"


@pytest.mark.parametrize("name", sorted(slow.SCORES))
@settings(max_examples=60)
@given(windows())
def test_greedy_strategies_pick_what_scores_least(name, case):
    loads, _, size = case
    assume(len(loads) > size)
    assert run(name, loads, size) == slow.greedy(loads, size, slow.SCORES[name])


@pytest.mark.parametrize("name", ["lpt", "lpt_balanced", "karmarkar_karp", "differencing"])
@settings(max_examples=60)
@given(windows())
def test_orders_and_partitions_are_those_of_the_oracle(name, case):
    loads, _, size = case
    assume(len(loads) > size)
    assert run(name, loads, size) == getattr(slow, name)(loads, size)


@settings(max_examples=60)
@given(windows(most=10), st.integers(0, 3))
def test_peak_excess_is_that_of_the_oracle(case, exchanges):
    loads, num_layers, size = case
    assume(len(loads) > size)
    options = Options(exchanges=exchanges)
    picked = run("peak_excess", loads, size, num_layers=num_layers, options=options)
    assert picked == slow.peak_excess(loads, size, num_layers, exchanges)


@settings(max_examples=60)
@given(windows(most=10), st.data())
def test_what_already_runs_counts_as_part_of_the_batch(case, data):
    loads, num_layers, size = case
    assume(len(loads) > size)
    entries = st.integers(0, 90)
    base = data.draw(st.lists(entries, min_size=len(loads[0]), max_size=len(loads[0])))
    for name, score in slow.SCORES.items():
        assert run(name, loads, size, base_X=base) == slow.greedy(loads, size, score, base=[base])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(greedy, "SHORT", 0)
            assert run(name, loads, size, base_X=base) == slow.greedy(loads, size, score, base=[base])
    everyone = Options(num_choices=len(loads))
    of_all = run("power_of_d", loads, size, base_X=base, options=everyone)
    assert of_all == run("greedy_variance", loads, size, base_X=base)
    best = slow.peak_excess(loads, size, num_layers, 8, base=[base])
    assert run("peak_excess", loads, size, num_layers=num_layers, base_X=base) == best
    always = Options(min_depth=0.0, min_gain=0.0)
    assert run("auto", loads, size, num_layers=num_layers, base_X=base, options=always) in (
        best,
        list(range(size)),
    )
    for name in STRATEGIES:
        nothing = run(name, loads, size, num_layers=num_layers, base_X=[0.0] * len(loads[0]))
        assert nothing == run(name, loads, size, num_layers=num_layers)


def test_a_request_unlike_those_that_run_joins_them():
    code, book = [6.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 6.0]
    waiting = [code, code, book, book]
    for name in (
        "greedy_variance",
        "greedy_dot_product",
        "norm_minimizing",
        "best_fit",
        "peak_excess",
        "auto",
    ):
        picked = run(name, waiting, 3, base_X=[x * 3 for x in code], options=Options(min_depth=1.0))
        assert picked == [0, 2, 3]


@settings(max_examples=30)
@given(windows(most=9))
def test_peak_excess_is_never_better_than_the_best_batch_of_all(case):
    loads, num_layers, size = case
    assume(len(loads) > size)
    picked = run("peak_excess", loads, size, num_layers=num_layers)
    assert excess(loads, picked, num_layers) >= slow.least_excess(loads, size, num_layers)


def test_exchanges_only_lower_the_excess():
    rng = np.random.default_rng(5)
    gains = 0
    for _ in range(50):
        loads = rng.integers(0, 30, (16, 6)).tolist()
        plain = excess(loads, run("peak_excess", loads, 5, options=Options(exchanges=0)), 1)
        better = excess(loads, run("peak_excess", loads, 5), 1)
        assert better <= plain
        gains += better < plain
    assert gains > 10


@pytest.mark.parametrize("name", INVARIANT)
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([2.0**-20, 0.5, 2.0**30]))
def test_the_unit_of_loads_and_the_order_of_the_younger_do_not_matter(name, seed, scale):
    rng = np.random.default_rng(seed)
    loads = np.exp(rng.standard_normal((12, 6)))
    picked = run(name, loads, 4, num_layers=2)
    assert run(name, loads * scale, 4, num_layers=2) == picked
    order = np.concatenate([[0], 1 + rng.permutation(11)])
    assert order[run(name, loads[order], 4, num_layers=2)].tolist() == picked


@settings(max_examples=40)
@given(windows(), st.integers(1, 6))
def test_power_of_d_takes_the_best_of_a_sample_and_with_all_as_sample_is_greedy(case, num_choices):
    loads, _, size = case
    assume(len(loads) > size)
    everyone = Options(num_choices=len(loads))
    assert run("power_of_d", loads, size, options=everyone) == run("greedy_variance", loads, size)
    assert run("power_of_d_dot", loads, size, options=everyone) == run("greedy_dot_product", loads, size)
    # of a sample of d, at least d - 1 candidates score no better than the one taken
    picked = run("power_of_d", loads, size, options=Options(num_choices=num_choices))
    if size > 1:
        scores = {i: slow.variance(slow.added([loads[0], loads[i]])) for i in range(1, len(loads))}
        no_better = sum(score >= scores[picked[1]] for score in scores.values())
        assert no_better >= min(num_choices, len(scores))


@pytest.mark.parametrize("name", sorted(DRAWING))
def test_drawing_depends_on_the_generator_alone_and_needs_one(name):
    loads = np.random.default_rng(0).random((40, 5))
    options = Options(num_choices=2)
    draws = {tuple(run(name, loads, 8, seed=seed, options=options)) for seed in range(20)}
    assert len(draws) > 10
    with pytest.raises(ConfigError, match="rng"):
        select(name, loads)


def test_random_is_uniform():
    rng = np.random.default_rng(0)
    counts = np.zeros(12)
    for _ in range(4000):
        counts[select("random", np.ones((12, 2)), 4, rng=rng)] += 1
    assert counts[0] == 4000
    assert np.abs(counts[1:] / 4000 - 3 / 11).max() < 0.03  # four standard deviations


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - DRAWING - {"differencing"}))
def test_where_all_are_alike_age_decides(name):
    loads = np.tile([0.1, 0.3, 0.7], (9, 1))
    picked = run(name, loads, 3)
    if name == "lpt_balanced":  # dealt out in turn
        assert picked == [0, 3, 6]
    elif name == "karmarkar_karp":
        assert picked[0] == 0
    else:
        assert picked == [0, 1, 2]


@settings(max_examples=40)
@given(windows(), st.data())
def test_a_token_budget_is_kept_and_only_what_does_not_fit_is_left(case, data):
    loads, num_layers, size = case
    tokens = data.draw(st.lists(st.integers(0, 9), min_size=len(loads), max_size=len(loads)))
    budget = data.draw(st.integers(tokens[0], tokens[0] + 20))
    for name in STRATEGIES:
        picked = run(name, loads, size, num_layers=num_layers, tokens_W=tokens, token_budget=budget)
        used = sum(tokens[i] for i in picked)
        assert picked[0] == 0
        assert len(set(picked)) == len(picked) <= size
        assert used <= budget
        if len(picked) < size and name not in ("peak_excess", "auto"):
            assert all(used + tokens[i] > budget for i in range(len(loads)) if i not in picked)


def test_a_token_budget_leaves_a_choice_where_the_window_would_fit_by_number():
    code, book = [6.0, 2.0, 0.0, 0.0], [0.0, 0.0, 2.0, 6.0]
    limits = {"tokens_W": [4, 4, 4], "token_budget": 8}
    assert run("fcfs", [code, code, book], 3, **limits) == [0, 1]
    for name in ("greedy_variance", "greedy_dot_product", "norm_minimizing", "peak_excess"):
        assert run(name, [code, code, book], 3, **limits) == [0, 2]
        assert run(name, [code, code, book], 3, tokens_W=[4, 4, 4], token_budget=12) == [0, 1, 2]


def test_whoever_must_come_first_does_and_shuts_the_batch_where_it_does_not_fit():
    loads = np.random.default_rng(1).random((10, 4))
    for name in STRATEGIES:
        assert run(name, loads, 4, first=(0, 7, 3))[:3] == [0, 7, 3]
        assert run(name, loads, 2, first=(0, 7, 3)) == [0, 7]
        shut = {"first": (0, 7), "tokens_W": [1, 1, 1, 1, 1, 1, 1, 9, 1, 1], "token_budget": 5}
        assert run(name, loads, 4, **shut) == [0]


def test_auto_is_fcfs_where_the_queue_is_shallow_or_nothing_is_gained():
    rng = np.random.default_rng(0)
    topics = np.repeat(np.array([[9.0, 1.0], [1.0, 9.0]]), 16, axis=0)  # a burst of each
    in_order = list(range(8))
    deep = run("auto", topics, 8)
    assert deep == run("peak_excess", topics, 8) != in_order
    assert run("auto", topics, 8, options=Options(min_depth=4.5)) == in_order
    alike = 100 + rng.random((32, 2))
    assert run("peak_excess", alike, 8) != in_order
    assert run("auto", alike, 8) == in_order
    assert run("auto", alike, 8, options=Options(min_gain=0.0)) == run("peak_excess", alike, 8)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
@example(5836, True, True)  # as many requests as the tables have rows, in another order
def test_a_window_kept_from_decision_to_decision_decides_as_a_fresh_one(seed, keeps, as_if_long):
    rng = np.random.default_rng(seed)
    window, loads = Window(6, num_layers=2, keep_products=keeps), np.zeros((0, 6))
    for _ in range(6):
        new = rng.integers(0, 9, (int(rng.integers(0, 9)), 6))
        window.add(new)
        loads = np.concatenate([loads, new])
        assert len(window) == len(loads)
        expected = {name: run(name, loads, 4, num_layers=2) for name in KEPT}
        with pytest.MonkeyPatch.context() as patch:
            if as_if_long:  # the paths of long windows
                patch.setattr(window_module, "SHORT", 0)
                patch.setattr(greedy, "SHORT", 0)
            assert window.all_dots().tolist() == (loads @ loads.T).tolist()
            assert [window.dots(i).tolist() for i in range(len(loads))] == (loads @ loads.T).tolist()
            assert {name: run(name, window, 4) for name in KEPT} == expected
        gone = expected["greedy_dot_product"]
        window.remove(gone)
        loads = np.delete(loads, gone, axis=0)


def test_exchanges_looked_at_in_long_windows_can_gain_and_leave_the_least_variance():
    loads = np.random.default_rng(4).integers(0, 99, (30, 12)).tolist()
    picking = Picking(30, Limits(batch_size=8))
    picking.take_in_order(range(8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peaks, "_MOST_CELLS", 12 * 20)
        search = peaks._Exchanges(Window.of(loads, num_layers=3), picking, 1)
        is_found = []
        while is_found[-1:] != [False]:  # as it is, and after exchanges
            now = excess(loads, picking.picked, 3)
            swapped = {
                (place, other): [*set(picking.picked) - {picking.picked[1 + place]}, other]
                for place in range(7)
                for other in set(range(30)) - set(picking.picked)
            }
            may_gain = list(zip(*(cells.tolist() for cells in search._may_gain()), strict=True))
            assert {cell for cell in swapped if excess(loads, swapped[cell], 3) < now} <= set(may_gain)
            after = {cell: slow.variance(slow.added([loads[i] for i in swapped[cell]])) for cell in may_gain}
            looked_at = sorted(may_gain, key=after.get)[:20]
            if len(may_gain) > 20:
                likely = search._likely(*(np.array(cells) for cells in zip(*may_gain, strict=True)))
                found = list(zip(*(cells.tolist() for cells in likely), strict=True))
                assert sorted(after[cell] for cell in found) == [after[cell] for cell in looked_at]
            least, best = min((excess(loads, swapped[cell], 3), cell) for cell in looked_at)
            exchange = search.best()
            is_found.append(exchange is not None)
            if exchange is not None:
                assert exchange == best
                search.make(*exchange)
    assert len(is_found) > 1
    assert least >= now


def test_an_empty_window_gives_an_empty_batch():
    assert run("greedy_variance", np.zeros((0, 3)), 4) == []


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"name": "gredy"}, "strategy"),
        ({"batch_size": 0}, "batch_size"),
        ({"num_layers": 2}, "num_layers"),
        ({"first": (0, 0)}, "first"),
        ({"first": (9,)}, "first"),
        ({"token_budget": 4}, "token_budget"),
        ({"tokens_W": [9, 1, 1, 1], "token_budget": 4}, "token_budget"),
        ({"tokens_W": [1, 1, 1, -1], "token_budget": 4}, "tokens_W"),
        ({"loads_WX": [[1.0, -1.0]]}, "loads"),
        ({"loads_WX": [[1.0, float("nan")]]}, "loads"),
        ({"base_X": [1.0, -1.0, 0.0]}, "base_X"),
        ({"base_X": [1.0, float("inf"), 0.0]}, "base_X"),
    ],
)
def test_what_is_not_allowed_is_named(arguments, field):
    settings_ = {"name": "fcfs", "loads_WX": np.ones((4, 3)), "batch_size": 2} | arguments
    with pytest.raises(ConfigError) as caught:
        select(**settings_)
    assert caught.value.field == field


def test_shapes_that_disagree_are_refused():
    with pytest.raises(ShapeError):
        select("fcfs", np.ones(3))
    with pytest.raises(ShapeError):
        select("fcfs", np.ones((4, 3)), tokens_W=[1, 2], token_budget=9)
    with pytest.raises(ShapeError, match="base_X"):
        select("fcfs", np.ones((4, 3)), base_X=[1.0, 2.0])
    with pytest.raises(ShapeError):
        Window(3).add(np.ones((1, 4)))
    with pytest.raises(ConfigError):
        select("fcfs", Window(4, num_layers=2), num_layers=4)
    for options in ({"num_choices": 0}, {"exchanges": -1}, {"min_gain": 1.0}, {"min_depth": -1.0}):
        with pytest.raises(ConfigError):
            Options(**options)
