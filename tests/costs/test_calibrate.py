"""calibrate: the fit on made-up times, plans and rounds, and the real thing on a tiny shape. No time is asserted."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from evenmoe.cli.main import app
from evenmoe.costs import LayerShape, predict_layer, read_machine
from evenmoe.costs.calibrate import calibrate, fit_machine
from evenmoe.costs.measure import ShapeTimes, calibrated_policies
from evenmoe.costs.plan import CalibrationConfig, plan_shape
from evenmoe.costs.rounds import Alone, Clocks, median_times
from evenmoe.costs.shape import SHAPES
from evenmoe.errors import ConfigError
from evenmoe.routing import POLICIES

TINY = LayerShape(
    name="tiny", hidden=16, intermediate=8, num_experts=6, top_k=2, shared_intermediate=12, num_devices=2
)
CONFIG = CalibrationConfig(shapes=(TINY,), budget_s=0.0, least_rounds=1, most_rounds=1)


def ticking():
    """A clock that moves on by 1 ms whenever it is read."""
    ticks = itertools.count()
    return lambda: next(ticks) / 1000.0


def made_up_times(rank: int, heldout_ms: float = 14.0) -> ShapeTimes:
    """A call takes 2 ms and each of its experts 1 + 0.5 n; exchanges take longer on rank 1."""
    pairs = {("baseline", 4): [2, 2, 1, 1, 1, 1], ("baseline", 40): [20, 20, 10, 10, 10, 10]}
    phases = {}
    for (name, tokens), pairs_E in pairs.items():
        moved = sum(pairs_E) * 64
        sent = sum(pairs_E[3:]) if rank == 0 else sum(pairs_E[:3])
        phases |= {
            (name, tokens, "gate"): 0.1 + 0.01 * tokens,
            (name, tokens, "policy"): 0.2 + 0.03 * tokens,
            (name, tokens, "pack"): 0.5 + moved / 1000,
            (name, tokens, "unpack"): 0.25 + moved / 2000,
            (name, tokens, "combine"): 1.0 + sent * 64 / 4000 * (0.5 if rank == 0 else 1.0),
            (name, tokens, "dispatch"): 1.75 + sent * 64 / 4000 * (0.5 if rank == 0 else 1.0),
        }
    return ShapeTimes(
        knots={(n, m): 2.0 + m * (1 + 0.5 * n) for n, m in ((1, 6), (4, 6), (32, 2))},
        single={m: 2.0 + 1.5 * m for m in (1, 4, 6)},
        shared={1: 1.0, 8: 0.5, 64: 9.0},
        phases=phases,
        pairs=pairs,
        barrier_ms=0.5 + rank,
        heldout=(((2, 0, 8, 1, 1, 0), heldout_ms),),
    )


def test_fit_recovers_what_the_times_were_made_from():
    config = dataclasses.replace(CONFIG, num_ranks=2, name="made up")
    machine = fit_machine(config, [[made_up_times(0)], [made_up_times(1)]])
    assert machine.source == "measured"
    assert machine.expert_call_ms == pytest.approx(2.0)
    expert, shared = machine.experts
    assert np.asarray(expert.knots) == pytest.approx(np.array([(1, 1.5), (4, 3.0), (32, 17.0)]))
    assert (expert.fixed_ms, expert.per_token_ms) == pytest.approx((1.0, 0.5))
    assert expert.fit_error == pytest.approx(0.0, abs=1e-9)
    assert shared.knots == ((1.0, 1.0), (8.0, 1.0), (64.0, 9.0))  # a fall is noise
    gate, policy = machine.gates[0], machine.policies["baseline"]
    assert (gate.fixed_ms, gate.per_token_ms) == pytest.approx((0.1, 0.01))
    assert (policy.fixed_ms, policy.per_pair_ms) == pytest.approx((0.2, 0.015))
    assert (machine.pack.fixed_ms, machine.pack.bytes_per_s) == pytest.approx((0.5, 1e6))
    assert (machine.unpack.fixed_ms, machine.unpack.bytes_per_s) == pytest.approx((0.25, 2e6))
    assert (machine.link.fixed_ms, machine.link.bytes_per_s) == pytest.approx((1.0, 4e6))
    assert machine.dispatch_exchanges_ms == pytest.approx(0.75)
    assert machine.barrier_ms == pytest.approx(1.0)
    predicted = 2.0 + (1 + 1) + (1 + 4) + 2 * 1.5
    assert [point.predicted_ms for point in machine.heldout.points] == pytest.approx([predicted] * 2)
    assert machine.heldout.median_error == pytest.approx(1 - predicted / 14)


def test_heldout_error_shows_a_bad_fit():
    machine = fit_machine(CONFIG, [[made_up_times(0, heldout_ms=24.0)]])
    assert machine.heldout.median_error == pytest.approx(0.5)
    assert machine.link is None


def test_plans_stay_within_memory_and_work():
    config = CalibrationConfig(shapes=tuple(SHAPES.values()), num_ranks=2)
    for shape in SHAPES.values():
        plan = plan_shape(shape, config, 0)
        assert 2 * plan.num_experts * shape.expert_bytes("float32") <= 2e9
        assert 2 * max(plan.layer_tokens) * shape.top_k * shape.pair_bytes("float32") <= 1e8
        assert all(1 <= m <= plan.num_experts for _, m in plan.knots)
        assert all(n * m * shape.flops_per_pair <= 1.2e11 for n, m in plan.knots)
        assert len(plan.knots) >= 5
        assert all(len(vector) == plan.num_experts for vector in plan.heldout)
        assert bool(plan.shared) == bool(shape.shared_intermediate)
        other = plan_shape(shape, config, 1)
        assert dataclasses.replace(other, heldout=plan.heldout) == plan
        assert plan.heldout != other.heldout or plan.num_experts == 1


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"shapes": ()}, "shapes"),
        ({"shapes": (TINY, TINY)}, "shapes"),
        ({"num_ranks": 7}, "num_ranks"),
        ({"num_ranks": 0}, "num_ranks"),
        ({"threads": 0}, "threads"),
        ({"dtype": "int8"}, "dtype"),
        ({"implementation": "fast"}, "implementation"),
        ({"budget_s": float("nan")}, "budget_s"),
        ({"most_rounds": 0}, "most_rounds"),
    ],
)
def test_settings_that_cannot_act_are_refused(changes, field):
    with pytest.raises(ConfigError, match=field):
        dataclasses.replace(CONFIG, **changes)


def test_experts_beyond_the_memory_are_refused():
    config = CalibrationConfig(shapes=(SHAPES["mixtral"],), num_ranks=8)
    with pytest.raises(ConfigError, match="at most 2"):
        plan_shape(SHAPES["mixtral"], config, 0)


@pytest.mark.parametrize(
    ("budget_s", "rounds"), [(0.0, 2), (10.0, 2), (10.5, 3), (14.0, 4), (1e9, 6)], ids=str
)
def test_rounds_stop_before_the_budget_is_spent(budget_s, rounds):
    """A round of two jobs takes 3.5 s."""
    now, ran = [0.0], []

    def job(name, seconds):
        def run():
            ran.append(name)
            now[0] += seconds
            return {name: len(ran)}

        return run

    found = median_times(
        {"a": job("a", 2.5), "b": job("b", 1.0)},
        meeting=Alone(),
        clock=lambda: now[0],
        budget_s=budget_s,
        least_rounds=2,
        most_rounds=6,
    )
    assert ran == ["a", "b"] * rounds
    assert found == {"a": rounds, "b": rounds + 1}


ON_TEXT = set(POLICIES) - {"macs"}
"""The policies that text alone can be routed by: the layer that is timed has no images."""


def test_every_policy_of_text_has_a_cost():
    assert set(calibrated_policies()) == ON_TEXT


def test_one_rank_on_a_tiny_shape(caplog):
    steps, clock, threads = [], ticking(), torch.get_num_threads()
    machine = calibrate(CONFIG, lambda *step: steps.append(step), Clocks(wall=clock, work=clock))
    assert torch.get_num_threads() == threads
    assert steps[0] == ("tiny: setting up", 0, 1)
    assert steps[-1] == ("tiny: done", 1, 1)
    assert (machine.ranks, machine.link) == (1, None)
    assert set(machine.policies) == ON_TEXT
    assert [curve.intermediate for curve in machine.experts] == [8, 12]
    assert {"torch", "transformers", "numpy"} <= set(machine.versions)
    assert len(machine.heldout.points) == 8
    found = predict_layer(
        machine,
        TINY,
        load_DE=[[1] * 6],
        tokens_D=[3],
        placement_holds_DE=TINY.contiguous_holds(1),
        policy="fill",
    )
    assert float(found.layer_ms) > 0
    assert (
        not caplog.records
    )  # that Expanded Drop on one device is another routing does not matter to its cost


@pytest.mark.slow
def test_two_ranks_write_a_file_through_the_command(tmp_path):
    shape = tmp_path / "shape.json"
    shape.write_text('{"hidden": 16, "intermediate": 8, "num_experts": 6, "top_k": 2}')
    out, copy = tmp_path / "machine.json", tmp_path / "copy.json"
    arguments = ["calibrate", "--shape", str(shape), "--ranks", "2", "--seconds", "0", "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--json", str(copy)])
    assert result.exit_code == 0, result.output
    assert "Held out" in result.output
    machine = read_machine(out)
    assert machine == read_machine(copy)
    assert machine.ranks == 2
    assert machine.link is not None
    assert len(machine.heldout.points) == 16


def test_an_interrupt_leaves_no_file(tmp_path, monkeypatch):
    def interrupted(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("evenmoe.costs.calibrate.calibrate", interrupted)
    out = tmp_path / "machine.json"
    result = CliRunner().invoke(app, ["calibrate", "--out", str(out)])
    assert result.exit_code == 130
    assert not list(tmp_path.iterdir())
