"""`bench model`: what is counted and how times compose, on tiny models; no test looks at how long anything takes."""

import numpy as np
import pytest
import torch

import evenmoe
from evenmoe.bench.emulated import Link
from evenmoe.bench.job import Setting
from evenmoe.bench.model import bench_model
from evenmoe.bench.model_job import Checkpoint, random_ids
from evenmoe.bench.model_random import VOCAB, RandomModel, skeleton
from evenmoe.bench.model_results import implied_speedup
from evenmoe.bench.shares import synthetic_shares
from evenmoe.costs import SHAPES, LayerShape
from evenmoe.errors import ConfigError, ShapeError
from evenmoe.placement import Placement
from evenmoe.routing import Baseline, TokenDrop
from tests.bench.model_jobs import SETTINGS, TOP_K, tiny_job, tiny_model

LINK = Link.of(12.5, 20.0)
COUNTED = ("load_speedup", "applied", "pairs_kept", "pairs_run", "straggler_factor")


@pytest.fixture(scope="module")
def emulated():
    return bench_model(tiny_job(), "emulated", link=LINK)


@pytest.fixture(scope="module")
def ranks():
    """The one run of real processes here."""
    return bench_model(tiny_job(), "ranks", link=LINK)


@pytest.fixture(params=["emulated", "ranks"])
def outcome(request):
    return request.getfixturevalue(request.param)


def test_there_is_a_row_for_each_part_and_setting_the_baseline_first(outcome):
    results, _ = outcome
    assert [(row.part, row.policy) for row in results.rows] == [
        (part, setting.label) for part in ("prefill", "decode") for setting in SETTINGS
    ]
    for part in ("prefill", "decode"):
        first = results.part(part)[0]
        assert (first.speedup, first.layer_speedup, first.load_speedup, first.pairs_kept) == (1, 1, 1, 1)
        assert first.implied_speedup == pytest.approx(1)


def test_times_add_up(outcome):
    results, _ = outcome
    for row in results.rows:
        assert sum(row.phases_mean.values()) == pytest.approx(row.moe_ms)
        assert row.moe_ms + row.outside_ms == pytest.approx(row.total_ms)
        assert 0 < row.moe_share < 1
        assert row.total_ms_low <= row.total_ms_high
        first = results.part(row.part)[0]
        assert row.speedup == pytest.approx(first.total_ms / row.total_ms)
        # Amdahl's law is exact but for the time outside the MoE layers
        changed_ms = row.outside_ms - first.outside_ms
        assert first.total_ms / row.implied_speedup == pytest.approx(row.total_ms - changed_ms)


def test_devices_side_by_side_all_take_as_long(emulated):
    for row in emulated[0].rows:
        totals = [sum(phases.values()) for phases in row.phases_by_device]
        assert totals == pytest.approx([row.moe_ms] * 2)
        assert min(phases["wait"] for phases in row.phases_by_device) >= 0


def test_real_ranks_run_the_pairs_that_emulated_devices_run(emulated, ranks):
    for mine, theirs in zip(emulated[0].rows, ranks[0].rows, strict=True):
        assert [getattr(mine, name) for name in COUNTED] == [getattr(theirs, name) for name in COUNTED]


def test_the_baseline_runs_what_was_drawn(emulated):
    job = tiny_job()
    answers = job.source.answers(job.source.build(), job.num_tokens_C)
    for part, calls in job.parts.items():
        peaks = evens = 0.0
        for call in calls:
            for _, _, index_TK in answers[call]:
                load_D = np.bincount(
                    index_TK.numpy().reshape(-1) // 4, minlength=2
                )  # contiguous: 4 experts each
                peaks, evens = peaks + load_D.max(), evens + load_D.sum() / 2
        assert emulated[0].part(part)[0].straggler_factor == pytest.approx(peaks / evens)


def test_dropping_promises_a_speedup_of_the_loads(emulated):
    _, dropped, filled = emulated[0].part("prefill")
    assert dropped.pairs_kept < 1
    assert dropped.load_speedup > 1.2
    assert filled.pairs_kept == dropped.pairs_kept  # Fill keeps what Token Drop keeps


def test_a_trace_has_every_layer_of_every_call_on_every_device(outcome):
    results, traced = outcome
    passes = 2 if results.mode == "ranks" else 1
    assert len(traced) == passes * len(SETTINGS) * 4 * 2 * 2  # calls, layers, devices
    assert {one.record.layer for one in traced} == {0, 1}
    assert {one.record.step for one in traced} == {0, 1, 2, 3}


def test_few_decode_tokens_pass_untouched_unless_told_otherwise():
    few = {"ids_BS": random_ids(2, 10, VOCAB, 0), "source": tiny_model("mixtral"), "repeats": 1}
    acted = {}
    for min_tokens in (None, 1):
        results, _ = bench_model(tiny_job(**few, min_tokens=min_tokens), "emulated", link=LINK)
        acted[min_tokens] = [results.part(part)[1].applied for part in ("prefill", "decode")]
        if min_tokens is None:
            assert results.part("decode")[1].pairs_kept == 1
    assert acted == {None: [1, 0], 1: [1, 1]}  # two rows are fewer than E / K = 4


@pytest.mark.parametrize("name", [name for name in TOP_K if name != "olmoe"])
def test_each_architecture_is_timed(name):
    job = tiny_job(name, settings=SETTINGS[:2], repeats=1, ids_BS=random_ids(4, 9, VOCAB, 0))
    results, _ = bench_model(job, "emulated", link=LINK)
    assert [row.part for row in results.rows] == ["prefill", "prefill"]  # no token is left to decode
    assert all(0 < row.moe_share < 1 for row in results.rows)
    if name in ("qwen1.5-moe", "deepseek-v2-lite"):
        assert all(row.phases_mean["rest"] > 0 for row in results.rows)


@pytest.mark.parametrize(
    ("name", "vocabulary", "billions", "dense"),
    [
        ("olmoe", 50304, 6.92, 0),
        ("mixtral", 32000, 46.7, 0),
        ("qwen1.5-moe", 151936, 14.3, 0),
        ("deepseek-v2-lite", 102400, 15.7, 1),  # one more layer with a dense MLP of 10944
    ],
)
def test_the_sizes_are_the_real_ones(name, vocabulary, billions, dense):
    shape = SHAPES[name]
    of_one, of_two = (sum(parameter.numel() for parameter in skeleton(shape, n).parameters()) for n in (1, 2))
    layer = of_two - of_one
    total = layer * shape.num_layers + 2 * vocabulary * shape.hidden
    experts = shape.num_experts * 3 * shape.hidden * shape.intermediate
    shared = 3 * shape.hidden * shape.shared_intermediate
    total += dense * (layer - experts - shared + 3 * shape.hidden * 10944)
    assert total / 1e9 == pytest.approx(billions, rel=0.01)


def test_built_models_are_whole_and_their_experts_differ_once_filled():
    source = tiny_model("deepseek-v2-lite")
    model = source.build()
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    experts = model.model.layers[1].mlp.experts.down_proj
    assert torch.equal(experts[0], experts[1])
    source.fill_experts(model, seed=1)
    experts = model.model.layers[1].mlp.experts.down_proj
    assert not torch.equal(experts[0], experts[1])


def test_a_trained_model_routes_for_real(tiny_checkpoint):
    source = Checkpoint(path=str(tiny_checkpoint), name="tiny")
    ids_BS = random_ids(4, 40, 320, 3)
    job = tiny_job(source=source, ids_BS=ids_BS, num_prompt=40, repeats=1)
    results, _ = bench_model(job, "emulated", link=LINK)
    model = evenmoe.load(tiny_checkpoint)
    for setting, row in zip(SETTINGS, results.rows, strict=True):
        with evenmoe.attach(model, setting.policy, num_devices=2, pad_token_id=-1) as attached:
            with torch.inference_mode():
                model(input_ids=ids_BS)
            counts = attached.loads.total
        assert row.pairs_kept == counts.kept_L.sum() / counts.before_LE.sum()
        device_LD = counts.after_LE.reshape(2, 2, 4).sum(-1)
        assert row.straggler_factor == pytest.approx(device_LD.max(1).sum() / (counts.before_LE.sum() / 2))


def test_a_placement_with_copies_is_followed():
    rows = [[0, 1], 0, 0, 0, [0, 1], 1, 1, 1]
    job = tiny_job(placement=Placement.of(rows, 2), settings=SETTINGS[:2], repeats=1)
    copied, _ = bench_model(job, "emulated", link=LINK)
    plain, _ = bench_model(tiny_job(settings=SETTINGS[:2], repeats=1), "emulated", link=LINK)
    assert copied.rows[0].straggler_factor < plain.rows[0].straggler_factor


@pytest.mark.parametrize(
    ("share", "layer", "end_to_end"), [(0.5, 2.0, 4 / 3), (1.0, 3.0, 3.0), (0.0, 9.0, 1.0)]
)
def test_amdahls_law_by_hand(share, layer, end_to_end):
    assert implied_speedup(share, layer) == pytest.approx(end_to_end)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids_BS": random_ids(3, 12, VOCAB, 0)}, "no equal number of rows"),
        ({"num_prompt": 13}, "prompt_tokens"),
        ({"repeats": 0}, "repeats"),
        ({"settings": SETTINGS[1:]}, "the baseline first"),
        ({"placement": Placement.of([0, 1, 2, 0, 1, 2, 0, 1], 3)}, "the 3 of the placement"),
    ],
)
def test_a_job_that_does_not_fit_is_refused(changes, message):
    with pytest.raises((ConfigError, ShapeError), match=message):
        tiny_job(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "layers"),
        ({"shape": LayerShape(name="other", hidden=8, intermediate=8, num_experts=8, top_k=4)}, "olmoe, "),
        ({"shares": synthetic_shares(6, 2, 1.5)}, "shares of 6 experts"),
    ],
)
def test_a_model_that_cannot_be_is_refused(changes, message):
    options = {"shape": tiny_model().shape, "shares": tiny_model().shares}
    with pytest.raises((ConfigError, ShapeError), match=message):
        RandomModel(**options | changes)


def test_modes_that_cannot_act_are_refused():
    with pytest.raises(ConfigError, match="emulated, ranks"):
        bench_model(tiny_job(), "predicted", link=LINK)
    with pytest.raises(ConfigError, match="wall, unless"):
        bench_model(tiny_job(), "ranks", link=LINK, clock="cpu")
    with pytest.raises(ConfigError, match="at least 2"):
        bench_model(tiny_job(num_devices=1), "ranks", link=LINK)
    whole = Setting(label="global", policy=TokenDrop(gamma=1.0, scope="global"), gamma=1.0)
    with pytest.raises(ConfigError, match="use --mode ranks"):
        bench_model(
            tiny_job(settings=(Setting(label="No limit", policy=Baseline()), whole)), "emulated", link=LINK
        )
