"""CAPS's study: the schema of its results, what they are made of, the null test, and the published shape."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from evenmoe.errors import ConfigError, FileFormatError
from evenmoe.scheduling import STRATEGIES, SchedulerConfig
from evenmoe.simulation.studies.fluid import fluid_gain
from evenmoe.simulation.studies.journal import Journal
from evenmoe.simulation.studies.paper import PaperConfig, PaperWorkload, RunPaperCells
from evenmoe.simulation.studies.paper_comparison import compare, leading, shape
from evenmoe.simulation.studies.paper_results import (
    check_folder,
    generated_at,
    paper_results,
    read_results,
    write_results,
)
from evenmoe.simulation.studies.published import read_published
from evenmoe.simulation.studies.study import Cell, run_cells

SMALL = PaperConfig(
    requests=160, seeds=(1, 2), rates_per_s=(150.0, 300.0), strategies=("fcfs", "random", "lpt", "auto")
)


def rows_of(config, folder, jobs=1):
    run = RunPaperCells(config=config, requests=config.requests)
    return run_cells(config.cells(), run, journal=Journal(folder / "cells.jsonl", {}), jobs=jobs)


def results_of(config, folder, jobs=1):
    rows = rows_of(config, folder, jobs)
    return paper_results(config, rows, steady_state=None, versions={"evenmoe": "0"}, generated="then")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return results_of(SMALL, tmp_path_factory.mktemp("small"))


def test_the_defaults_are_the_published_study():
    config = PaperConfig()
    assert (config.requests, config.seeds) == (3000, (42, 123, 456, 789))
    assert config.rates_per_s == (150, 200, 250, 300)
    assert set(config.strategies) == set(STRATEGIES)
    assert (config.workload.num_experts, config.workload.top_k) == (60, 4)
    scheduler = config.scheduler
    assert (scheduler.max_batch_size, scheduler.window_size, scheduler.min_batch_trigger) == (8, 32, 16)
    assert scheduler.scheduling_interval_ms == 100
    assert scheduler.max_passed_over > scheduler.window_size, "the bound on passing over never acts"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "none twice"),
        ({"seeds": (-1,)}, "seeds"),
        ({"rates_per_s": (0.0,)}, "rates"),
        ({"patterns": ("burst",)}, "one of bursty, poisson"),
        ({"strategies": ("fcfs", "best")}, "one of fcfs, random"),
        ({"strategies": ("random",)}, "with fcfs"),
        ({"requests": 0}, "requests"),
    ],
)
def test_a_wrong_grid_is_refused_with_what_is_allowed(wrong, message):
    with pytest.raises(ConfigError, match=message):
        PaperConfig(**wrong)


FIGURES = {
    f"{name}_{kind}" for name in ("p50", "p90", "p99", "throughput", "imbalance") for kind in ("mean", "std")
}
GAINS = {"p99_reduction_pct", "throughput_gain_pct", "imbalance_reduction_pct"}


def test_the_schema_is_caps_s_with_ours_beside_it(small):
    assert small["config"] == {"requests": 160, "seeds": [1, 2], "rates": [150, 300], "generated": "then"}
    assert small["strategies"] == list(SMALL.strategies)
    for pattern in ("bursty", "poisson"):
        assert list(small[pattern]) == ["150", "300"]
        for at in small[pattern].values():
            assert set(at) == {*SMALL.strategies, "_improvements", "_intervals", "_fluid"}
            assert all(set(at[strategy]) == FIGURES for strategy in SMALL.strategies)
            for part in ("_improvements", "_intervals"):
                assert set(at[part]) == {"random", "lpt", "auto"}
                assert all(set(gains) == GAINS for gains in at[part].values())
            predicted = {"p99_reduction_pct", "capacity_gain_pct"}
            assert all(set(gains) == predicted for gains in at["_fluid"].values())
    ours = {"format", "version", "units", "versions", "study", "published", "shape", "steady_state", "cells"}
    assert set(small) == {"config", "strategies", "bursty", "poisson", "latency_quantiles_s", *ours}
    assert small["study"] == json.loads(json.dumps(SMALL.as_dict())) | {
        key: value for key, value in SMALL.as_dict().items() if isinstance(value, tuple)
    }


def test_means_and_gains_are_those_of_the_cells(small):
    for pattern, rate in (("bursty", 300), ("poisson", 150)):
        at = small[pattern][f"{rate}"]
        cells = {
            name: [
                row
                for row in small["cells"]
                if (row["pattern"], row["rate_per_s"], row["strategy"]) == (pattern, rate, name)
            ]
            for name in ("fcfs", "lpt")
        }
        assert [row["seed"] for row in cells["lpt"]] == [1, 2]
        p99 = {name: [row["latency_p99_s"] for row in rows] for name, rows in cells.items()}
        throughput = {name: [row["throughput_requests_s"] for row in rows] for name, rows in cells.items()}
        assert at["lpt"]["p99_mean"] == pytest.approx(np.mean(p99["lpt"]))
        assert at["lpt"]["p99_std"] == pytest.approx(np.std(p99["lpt"], ddof=1))
        gains = at["_improvements"]["lpt"]
        assert gains["p99_reduction_pct"] == pytest.approx(
            100 * (1 - np.mean(p99["lpt"]) / np.mean(p99["fcfs"]))
        )
        more = np.mean(throughput["lpt"]) / np.mean(throughput["fcfs"])
        assert gains["throughput_gain_pct"] == pytest.approx(100 * (more - 1))
        by_seed = 1 - np.array(p99["lpt"]) / np.array(p99["fcfs"])
        half = 12.7062 * by_seed.std(ddof=1) / np.sqrt(2)
        low, high = at["_intervals"]["lpt"]["p99_reduction_pct"]
        assert low == pytest.approx(100 * (by_seed.mean() - half), rel=1e-4)
        assert high == pytest.approx(100 * (by_seed.mean() + half), rel=1e-4)
        per_s = [8 / (0.03816 * at[name]["imbalance_mean"]) for name in ("fcfs", "lpt")]
        fluid = fluid_gain(160, *per_s, rate)
        assert at["_fluid"]["lpt"] == {
            "capacity_gain_pct": pytest.approx(100 * (per_s[1] / per_s[0] - 1)),
            "p99_reduction_pct": None if fluid is None else pytest.approx(100 * fluid),
        }


def test_every_request_of_every_run_finishes_and_strategies_share_the_requests(small):
    assert all(row["finished"] == row["requests"] == 160 for row in small["cells"])
    assert all(row["ended"] == "all finished" for row in small["cells"])
    fcfs, other = (
        RunPaperCells(config=SMALL, requests=50)(
            [Cell(pattern="bursty", rate_per_s=200.0, seed=5, strategy=name)]
        )[0]
        for name in ("fcfs", "auto")
    )
    together = RunPaperCells(config=SMALL, requests=50)(
        [Cell(pattern="bursty", rate_per_s=200.0, seed=5, strategy=name) for name in ("fcfs", "auto")]
    )
    assert together == [fcfs, other], "a cell does not depend on those it is run with"


def test_the_same_seed_gives_the_same_bytes_on_any_number_of_processes(tmp_path, small):
    config = replace(SMALL, rates_per_s=(300.0,), strategies=("fcfs", "random"))
    paths = []
    for jobs in (1, 2):
        folder = tmp_path / f"{jobs}"
        paths.append(write_results(folder / "results.json", results_of(config, folder, jobs)))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    other = results_of(replace(config, seeds=(1, 3)), tmp_path / "other")
    same = read_results(paths[0])
    assert other["cells"][0] == same["cells"][0], "the first seed's"
    assert other["bursty"] != same["bursty"]


def test_the_time_is_that_of_source_date_epoch(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert generated_at() == "1970-01-02T00:00:00Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "today")
    with pytest.raises(ConfigError, match="SOURCE_DATE_EPOCH"):
        generated_at()
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", generated_at())


def test_a_folder_with_the_results_of_another_study_is_refused(tmp_path, small):
    write_results(tmp_path / "results.json", small)
    check_folder(tmp_path, SMALL, None)
    check_folder(tmp_path / "empty", SMALL, None)
    with pytest.raises(ConfigError, match="other seeds, workload"):
        check_folder(tmp_path, replace(SMALL, seeds=(3,), workload=PaperWorkload(num_topics=3)), None)
    (tmp_path / "results.json").write_text('{"format": "evenmoe.results"}')
    with pytest.raises(FileFormatError, match="not a results file"):
        check_folder(tmp_path, SMALL, None)


def made_up(gains, rates=("150", "300"), p99=None):
    """Results in which every strategy has the same gain at each rate; in P99 another one, if given."""
    p99 = gains | (p99 or {})
    at = {
        "fcfs": {"p99_mean": 5.0, "throughput_mean": 116.8, "imbalance_mean": 1.796},
        "_improvements": {
            name: {
                "p99_reduction_pct": p99[name],
                "throughput_gain_pct": gain,
                "imbalance_reduction_pct": gain,
            }
            for name, gain in gains.items()
        },
    }
    at |= {name: {"throughput_mean": 100 + gain, "imbalance_mean": 1.5} for name, gain in gains.items()}
    return {"strategies": ["fcfs", *gains], "bursty": dict.fromkeys(rates, at)}


LEADERS = {
    "greedy_variance": 20.0,
    "greedy_dot_product": 20.5,
    "norm_minimizing": 19.0,
    "best_fit": 20.0,
    "power_of_d": 19.5,
    "power_of_d_dot": 19.6,
}
OTHERS = {"random": 15.0, "karmarkar_karp": 12.0, "lpt": 8.0}


def test_the_shape_is_decided_by_the_numbers():
    body = made_up(LEADERS | OTHERS | {"auto": 30.0, "differencing": 18.0})
    assert leading(body) == sorted(LEADERS, key=LEADERS.get, reverse=True)
    holds = {statement.says: statement.holds for statement in shape(body)}
    assert holds.pop("under bursts the gain shrinks as the rate rises") is False
    assert all(holds.values())
    assert len(holds) == 5
    worse_p99 = {"power_of_d": 10.0, "random": 19.2, "karmarkar_karp": 19.3, "lpt": 30.0, "auto": -2.0}
    worse = made_up(LEADERS | OTHERS | {"auto": 9.0}, p99=worse_p99)
    assert not any(statement.holds for statement in shape(worse))


def test_published_figures_stand_beside_ours_with_the_difference():
    lines = {
        (line.of, line.figure, line.rate_per_s): line
        for line in compare(made_up(LEADERS | OTHERS), read_published())
    }
    at_300 = lines["leading", "P99 gain, %", 300.0]
    assert (at_300.published, at_300.here) == ((18.6, 18.6), (19.0, 20.5))
    assert at_300.difference == pytest.approx(19.75 - 18.6)
    assert lines["random", "P99 gain, %", None].difference == pytest.approx(15 - 27.5)
    assert ("leading", "P99 gain, %", 200.0) not in lines, "a rate that was not run"


def test_null_requests_that_are_all_alike_gain_nothing(tmp_path):
    """Topics that use all experts evenly, lengths that are equal, more than can be served: nothing to schedule by.

    Under the capacity of 210/s there is a difference even so: a batch is due by the age of the oldest, whom reordering
    leaves older.
    """
    alike = PaperWorkload(concentration=1e9, request_noise=0.0, prompt_tokens=1e8, prompt_sigma=0.0)
    strategies = ("fcfs", "greedy_variance", "power_of_d", "peak_excess", "auto")
    config = replace(SMALL, requests=400, workload=alike, strategies=strategies, rates_per_s=(300.0,))
    body = results_of(config, tmp_path)
    for pattern in ("bursty", "poisson"):
        at = body[pattern]["300"]
        for name in strategies[1:]:
            assert at["_improvements"][name]["throughput_gain_pct"] == pytest.approx(0.0, abs=0.05)
            assert at["_improvements"][name]["imbalance_reduction_pct"] == pytest.approx(0.0, abs=0.05)
            low, _ = at["_intervals"][name]["p99_reduction_pct"]
            assert low <= 0.05, f"{name}: a gain in P99 where none is due"


@pytest.mark.slow
def test_the_published_shape_comes_out_of_a_small_study(tmp_path):
    strategies = ("fcfs", *LEADERS, "random", "lpt")
    config = PaperConfig(
        requests=2000, seeds=(42, 123), rates_per_s=(150.0, 300.0), strategies=strategies, scheduler=PATIENT
    )
    body = results_of(config, tmp_path, jobs=2)
    says = {statement.says: statement for statement in shape(body)}
    assert len(says) == 6
    assert all(statement.holds for statement in says.values()), says
    p99 = [body["bursty"]["300"]["_improvements"][name]["p99_reduction_pct"] for name in LEADERS]
    fluid = [body["bursty"]["300"]["_fluid"][name]["p99_reduction_pct"] for name in LEADERS]
    assert p99 == pytest.approx(fluid, abs=4.0), "above capacity P99 gains are a fluid queue's"


PATIENT = SchedulerConfig(max_passed_over=1000)
