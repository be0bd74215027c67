"""The steady state: fcfs's capacity, loads under it, warm-up cut off, gains paired by seed."""

from dataclasses import replace

import numpy as np
import pytest

from evenmoe.errors import ConfigError
from evenmoe.simulation.studies.journal import Journal
from evenmoe.simulation.studies.paper import PaperConfig, RunPaperCells
from evenmoe.simulation.studies.steady import SteadyConfig, capacity_cells, run_steady
from evenmoe.simulation.studies.study import run_cells

CONFIG = PaperConfig(seeds=(1, 2), patterns=("poisson",))
STEADY = SteadyConfig(requests=400, shares=(0.5, 0.9), strategies=("fcfs", "random"))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    journal = Journal(tmp_path_factory.mktemp("steady") / "steady.jsonl", {})
    return run_steady(CONFIG, STEADY, journal=journal, jobs=1), journal


def test_capacity_is_that_of_full_batches_one_after_another(found, tmp_path):
    rows = run_cells(
        capacity_cells(CONFIG),
        RunPaperCells(config=CONFIG, requests=400),
        journal=Journal(tmp_path / "j", {}),
        jobs=1,
    )
    assert all(row["strategy"] == "fcfs" for row in rows)
    assert all(row["utilisation"] == pytest.approx(1.0, abs=0.01) for row in rows)
    per_s = [CONFIG.capacity_per_s(row["imbalance"]) for row in rows]
    capacity = found[0]["capacity_per_s"]["poisson"]
    assert capacity == pytest.approx(np.mean(per_s), rel=0.01)
    assert capacity == pytest.approx(np.mean([row["throughput_requests_s"] for row in rows]))


def test_every_load_has_every_strategy_at_its_share_of_that_capacity(found):
    body, _ = found
    capacity = body["capacity_per_s"]["poisson"]
    assert [(line["share"], line["strategy"]) for line in body["lines"]] == [
        (share, strategy) for share in STEADY.shares for strategy in STEADY.strategies
    ]
    assert all(line["rate_per_s"] == line["share"] * capacity for line in body["lines"])
    assert body["config"] == STEADY.as_dict()


def test_gains_are_paired_by_seed_and_fcfs_has_none(found):
    body, journal = found
    line = body["lines"][3]
    by_seed = {
        strategy: np.array(
            [journal[f"poisson/{line['rate_per_s']!r}/{seed}/{strategy}"]["latency_p99_s"] for seed in (1, 2)]
        )
        for strategy in STEADY.strategies
    }
    assert line["p99_s"] == pytest.approx(by_seed["random"].mean())
    assert line["p99_gain"]["mean"] == pytest.approx((1 - by_seed["random"] / by_seed["fcfs"]).mean())
    assert body["lines"][2]["p99_gain"] is None


def test_a_machine_under_its_capacity_keeps_up_and_the_warm_up_is_cut_off(found):
    _, journal = found
    for share in STEADY.shares:
        rate = share * found[0]["capacity_per_s"]["poisson"]
        row = journal[f"poisson/{rate!r}/1/fcfs"]
        assert not row["overloaded"]
        assert row["seconds"] == pytest.approx(0.9 * 400 / rate, rel=0.35), "without the first tenth"


def test_it_goes_on_from_what_is_finished(found):
    body, journal = found

    def never(cells):
        raise AssertionError("run again")

    assert run_steady(CONFIG, STEADY, journal=journal, jobs=1) == body
    assert run_cells(capacity_cells(CONFIG), never, journal=journal, jobs=1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"requests": 99}, "at least 100"),
        ({"shares": (0.0,)}, "above 0"),
        ({"warmup": 1.0}, "under 1"),
        ({"strategies": ("random",)}, "with fcfs"),
        ({"strategies": ("fcfs", "best")}, "one of fcfs"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        replace(STEADY, **wrong)
