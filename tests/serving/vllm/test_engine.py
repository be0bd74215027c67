"""The engine of a process: what is routed and counted in each step, with routers and steps made up."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.errors import ConfigError, ShapeError, UnsupportedModelError
from evenmoe.models.routers import Routing
from evenmoe.placement import Placement, write_placement
from evenmoe.serving.config import serving_config_of
from evenmoe.serving.observation.loads_file import read_loads_snapshot
from evenmoe.serving.observation.spool import Spool
from evenmoe.serving.vllm.arrivals import Limits
from evenmoe.serving.vllm.engine import Engine
from evenmoe.serving.vllm.request_log import NAME, read_request_log
from tests.serving.vllm.engines import metadata

NUM_LAYERS, NUM_EXPERTS, TOP_K = 3, 8, 2


def said(num_tokens, seed, *, weights="softmax"):
    """What a router says of tokens drawn from a seed."""
    logits = torch.randn(100, NUM_EXPERTS, generator=torch.Generator().manual_seed(seed))[:num_tokens] * 2
    weight, index = logits.softmax(-1).topk(TOP_K)
    if weights == "unexplained":
        weight = torch.rand(num_tokens, TOP_K, generator=torch.Generator().manual_seed(seed + 1))
    return Routing(logits, weight, index.int())


def engine_of(routing=None, metrics=None, spool=None, *, weights="softmax", start=True):
    engine = Engine(serving_config_of({"routing": routing or {}, "metrics": metrics or {}}), spool)
    for layer in range(NUM_LAYERS):
        engine.add_layer(f"layers.{layer}", NUM_EXPERTS, TOP_K, lambda: probed(weights))
    if start:
        engine.start()
    return engine


def probed(weights):
    routing = said(32, 99, weights=weights)
    return Routing(routing.logits_TE, routing.weight_TK, routing.index_TK.long())


def run(engine, contexts, lengths, *, seed=0, padding=0, attention=True):
    """One step of all layers; return what each layer was told to run, None where it passed."""
    num_rows = sum(lengths) + padding
    context = SimpleNamespace(attn_metadata=metadata(contexts, lengths) if attention else None)
    with torch.inference_mode():
        return [
            engine.route(
                f"layers.{layer}", context, torch.zeros(num_rows, 4), said(num_rows, 10 * seed + layer)
            )
            for layer in range(NUM_LAYERS)
        ]


ROWS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=4), st.integers(0, 3), st.sampled_from([1, 2, 4]))
def test_steps_that_pass_are_counted_as_any_other(tmp_path_factory, steps, padding, num_devices):
    routing = {"num_devices": num_devices}
    log = {"per_request_loads": True, "least_requests": 1}
    fast = engine_of(routing)
    slow = engine_of(
        routing, log, Spool(tmp_path_factory.mktemp("spool"))
    )  # a log looks at every layer by itself
    for seed, rows in enumerate(steps):
        contexts, lengths = zip(*rows, strict=True)
        for engine in (fast, slow):
            assert run(engine, contexts, lengths, seed=seed, padding=padding) == [None] * NUM_LAYERS
        for name, table in slow.loads.total.arrays().items():
            np.testing.assert_allclose(fast.loads.total.arrays()[name], table, rtol=1e-6, err_msg=name)
        for name, value in vars(slow.loads.peaks).items():
            np.testing.assert_array_equal(getattr(fast.loads.peaks, name), value, err_msg=name)
    assert fast.session.num_forwards == slow.session.num_forwards == len(steps)


def test_profiling_runs_pass_and_count_for_nothing():
    engine = engine_of({"gamma": 0.5, "phases": "both"})
    assert run(engine, [], [], padding=50, attention=False) == [None] * NUM_LAYERS
    assert engine.is_dummy
    assert not engine.loads.total.tokens_L.any()
    assert engine.session.num_forwards == 0
    assert all(pairs is not None for pairs in run(engine, [0], [50]))
    assert not engine.is_dummy


def test_what_fills_a_batch_up_is_no_token():
    policy = {"gamma": 1.0, "phases": "both"}
    plain, padded = engine_of(policy), engine_of(policy)
    for one, other in zip(run(plain, [0, 0], [9, 15]), run(padded, [0, 0], [9, 15], padding=8), strict=True):
        assert other.token_P.tolist() == one.token_P.tolist()
        assert other.expert_P.tolist() == one.expert_P.tolist()
    assert plain.loads.total.tokens_L.tolist() == padded.loads.total.tokens_L.tolist() == [24] * NUM_LAYERS


@pytest.mark.parametrize("phases", ["prefill", "decode", "both"])
def test_which_tokens_of_a_mixed_step_are_limited(tmp_path, phases):
    log = {"per_request_loads": True, "least_requests": 1}
    engine = engine_of({"gamma": 0.5, "phases": phases, "min_tokens": 4}, log, Spool(tmp_path))
    run(engine, [0, 5, 0, *range(7, 17)], [20, 1, 17, *[1] * 10])
    rows = read_request_log(tmp_path / NAME)
    assert [row.phase for row in rows] == ["prefill", "decode", "prefill", *["decode"] * 10]
    dropped = {
        phase: sum(
            len(chosen) - len(kept)
            for row in rows
            if row.phase == phase
            for layer in range(NUM_LAYERS)
            for chosen, kept in zip(row.chosen[layer], row.kept[layer], strict=True)
        )
        for phase in ("prefill", "decode")
    }
    assert (dropped["prefill"] > 0) == (phases != "decode")
    assert (dropped["decode"] > 0) == (phases != "prefill")
    assert sum(dropped.values()) == engine.loads.total.before_LE.sum() - engine.loads.total.after_LE.sum()


def test_the_log_has_a_line_for_each_request_of_each_step(tmp_path):
    log = {"per_request_loads": True, "least_requests": 1}
    engine = engine_of({"gamma": 1.0, "phases": "both", "min_tokens": 1}, log, Spool(tmp_path))
    run(engine, [0, 0], [6, 3], seed=1)
    run(engine, [6, 3], [1, 1], seed=2)
    rows = read_request_log(tmp_path / NAME)
    assert [(row.step, row.row, row.context, row.tokens) for row in rows] == [
        (1, 0, 0, 6),
        (1, 1, 0, 3),
        (2, 0, 6, 1),
        (2, 1, 3, 1),
    ]
    index = said(9, 10).index_TK
    assert rows[1].chosen[0] == [sorted(experts) for experts in index[6:].tolist()]
    assert sum(len(kept) for row in rows for layer in row.kept for kept in layer) == int(
        engine.loads.total.after_LE.sum()
    )


def test_without_the_flag_there_is_no_log(tmp_path):
    run(engine_of({"gamma": 1.0}, None, Spool(tmp_path)), [0], [40])
    assert not (tmp_path / NAME).exists()


def test_every_step_and_layer_draws_anew():
    engine = engine_of({"gamma": 0.5, "options": {"keep": "random"}, "phases": "both"})
    again = engine_of({"gamma": 0.5, "options": {"keep": "random"}, "phases": "both"})
    other = engine_of({"gamma": 0.5, "options": {"keep": "random"}, "phases": "both", "seed": 1})

    def drawn(engine):
        context = [SimpleNamespace(attn_metadata=metadata([0], [40])) for _ in range(2)]
        return [
            engine.route(f"layers.{layer}", step, torch.zeros(40, 4), said(40, 7)).token_P.tolist()
            for step in context
            for layer in range(NUM_LAYERS)
        ]

    first = drawn(engine)
    assert len({tuple(tokens) for tokens in first}) == 2 * NUM_LAYERS
    assert drawn(again) == first
    assert drawn(other) != first


def test_counts_reach_the_spool_by_enough_requests(tmp_path):
    spool = Spool(tmp_path)
    engine = engine_of(None, {"least_requests": 3, "interval_s": 1e-9}, spool)
    engine.limits = lambda context: Limits(
        max_tokens=100, max_requests=9, max_length=99, block_size=16, num_blocks=1000
    )
    assert read_loads_snapshot(spool).num_tokens == 0
    run(engine, [0, 0], [6, 3])
    assert read_loads_snapshot(spool).num_tokens == 0
    run(engine, [6, 3, 0], [1, 1, 5])
    snapshot = read_loads_snapshot(spool)
    assert (snapshot.num_steps, snapshot.num_tokens, snapshot.num_requests) == (2, 16, 3)
    assert snapshot.loads.total.tokens_L.tolist() == [16] * NUM_LAYERS
    run(engine, [7, 4, 5], [1, 1, 1])
    assert read_loads_snapshot(spool).num_tokens == 16


def test_a_step_that_broke_off_leaves_nothing_behind(tmp_path):
    engine = engine_of({"gamma": 1.0}, {"per_request_loads": True, "least_requests": 1}, Spool(tmp_path))
    context = SimpleNamespace(attn_metadata=metadata([0], [20]))
    engine.route("layers.0", context, torch.zeros(20, 4), said(20, 1))
    run(engine, [0], [30])
    rows = read_request_log(tmp_path / NAME)
    assert [(row.tokens, len(row.chosen)) for row in rows] == [(30, NUM_LAYERS)]


@pytest.mark.parametrize(
    ("routing", "error", "named"),
    [
        ({"num_devices": 9}, ConfigError, "num_devices = 9 .* at most the 8 experts"),
        (
            {"gamma": 1.0, "options": {"modality": "image-first"}},
            ConfigError,
            r"routing\.modality = 'image-first'",
        ),
        ({"policy": "macs", "gamma": 1.0, "options": {"rho": 0}}, ConfigError, r"routing\.policy = 'macs'"),
        ({"placement": "none.json"}, FileNotFoundError, r"none\.json"),
    ],
)
def test_what_does_not_fit_the_model_stops_the_start(routing, error, named):
    with pytest.raises(error, match=named):
        engine_of(routing)


def test_a_placement_of_another_model_or_another_number_of_devices_is_refused(tmp_path):
    path = tmp_path / "placement.json"
    write_placement(Placement.of([[0, 1, 0, 1]] * NUM_LAYERS, 2), path)
    with pytest.raises(ShapeError, match="8"):
        engine_of({"placement": str(path), "num_devices": 2})
    write_placement(Placement.of([[0, 1] * 4] * NUM_LAYERS, 2), path)
    with pytest.raises(ConfigError, match="num_devices = 4"):
        engine_of({"placement": str(path), "num_devices": 4})
    run(engine_of({"placement": str(path), "num_devices": 2}), [0], [20])


@pytest.mark.parametrize(
    ("policy", "fits"), [("token_drop", True), ("fill", False), ("expanded_drop", False)]
)
def test_policies_that_need_scores_are_refused_where_weights_explain_none(policy, fits):
    routing = {"policy": policy, "gamma": 1.0, "num_devices": 2}
    assert engine_of(routing).session.policy.needs_true_scores != fits
    if fits:
        engine_of(routing, weights="unexplained")
    else:
        with pytest.raises(UnsupportedModelError, match=r"layers\.0 \(vllm\) are no known function"):
            engine_of(routing, weights="unexplained")
