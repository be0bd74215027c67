"""ExpertAwareScheduler on vLLM's scheduler and KV cache, without a model: whom it admits, and that nobody is lost."""

import json
import random

import numpy as np
import pytest

pytest.importorskip("vllm")

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import RequestStatus

from evenmoe.errors import ConfigError
from evenmoe.loads import ExpertLoads, LoadCounts
from evenmoe.placement import Placement
from evenmoe.scheduling import STRATEGIES
from evenmoe.serving.observation.loads_file import write_loads_snapshot
from evenmoe.serving.observation.loads_snapshot import LoadsSnapshot
from evenmoe.serving.observation.scheduling_file import read_scheduling_snapshot
from evenmoe.serving.observation.spool import ENVIRONMENT, Spool
from evenmoe.serving.vllm import ExpertAwareScheduler
from evenmoe.serving.vllm.scheduler import AsyncExpertAwareScheduler
from evenmoe.serving.vllm.scheduling_checks import CLIENT_LOADS
from tests.serve.engine_loop import BLOCK, Loop, new_request, new_scheduler

pytestmark = pytest.mark.serve

CODE, BOOK = [6.0, 2.0, 0.0, 0.0] * 2, [0.0, 0.0, 2.0, 6.0] * 2
EVEN = [2.0] * 8


def counted(before_LE, num_tokens):
    """What a worker would have counted."""
    before_LE = np.asarray(before_LE, dtype=np.int64)
    loads = ExpertLoads(
        layers=("a", "b"), num_experts_L=np.array([4, 4]), top_k=1, total=LoadCounts.undropped(before_LE, 1)
    )
    placement = Placement.of([[0] * 4] * 2, 1)
    return LoadsSnapshot.of(loads, placement, num_steps=0, num_tokens=num_tokens, num_requests=0)


@pytest.fixture
def spool(tmp_path, monkeypatch):
    folder = tmp_path / "spool"
    folder.mkdir()
    monkeypatch.setenv(ENVIRONMENT, str(folder))
    spool = Spool(folder)
    write_loads_snapshot(counted(np.zeros((2, 4)), 0), spool)
    return spool


def aware(folder, *, scheduling=None, metrics=None, **engine):
    """Ours, by loads of clients unless said otherwise."""
    scheduling = {"strategy": "greedy_variance", "predictor": "client"} | (scheduling or {})
    if scheduling["predictor"] == "client":
        engine["logits_processors"] = [CLIENT_LOADS]
    additional = {"evenmoe": {"scheduling": scheduling, "metrics": metrics or {}}}
    return new_scheduler(ExpertAwareScheduler, folder, additional, **engine)


def workload(seed, *, priorities=False):
    """When each request comes, what it asks, and who goes away again after how many steps."""
    rng = random.Random(seed)
    shared = [rng.randrange(256) for _ in range(4 * BLOCK)]
    events = []
    for name in range(60):
        prompt = shared[: rng.choice([0, 0, 2, 4]) * BLOCK] + [
            rng.randrange(256) for _ in range(rng.randrange(1, 200))
        ]
        load = rng.choice([CODE, BOOK, EVEN, None])
        events.append(
            (rng.randrange(80), name, prompt, rng.randrange(1, 30), rng.randrange(3) * priorities, load)
        )
    leaving = {rng.randrange(100): rng.randrange(60) for _ in range(8)}
    return sorted(events, key=lambda event: event[:2]), leaving


def serve(scheduler, seed, **kind):
    """Run a workload to its end."""
    events, leaving = workload(seed, **kind)
    loop = Loop(scheduler)
    for number in range(100):
        for _, name, prompt, most, priority, load in [event for event in events if event[0] == number]:
            request = new_request(
                name, prompt, max_tokens=most, priority=priority, arrival_s=name / 64 + number, load=load
            )
            scheduler.add_request(request)
        if number in leaving:
            scheduler.finish_requests(str(leaving[number]), RequestStatus.FINISHED_ABORTED)
        loop.step()
    return loop.run()


ENGINES = {
    "plain": {},
    "caching": {"caching": True},
    "preempting": {"num_blocks": 40, "max_num_seqs": 8},
    "preempting and caching": {"num_blocks": 40, "max_num_seqs": 8, "caching": True},
    "few tokens": {"max_num_batched_tokens": 64},
    "priority": {"policy": "priority", "num_blocks": 60, "max_num_seqs": 8},
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scheduling", [{"strategy": "fcfs"}, {"strategy": "auto", "predictor": "none"}])
def test_in_order_of_arrival_every_step_is_that_of_vllm(tmp_path, spool, engine, scheduling):
    kind = {"priorities": engine == "priority"}
    for seed in range(3):
        stock = serve(new_scheduler(Scheduler, tmp_path, **ENGINES[engine]), seed, **kind)
        ours = serve(aware(tmp_path, scheduling=scheduling, **ENGINES[engine]), seed, **kind)
        assert ours.handed_out == stock.handed_out
        assert ours.admitted == stock.admitted
        assert ours.tokens == stock.tokens


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nobody_is_lost_or_answered_twice(tmp_path, spool, engine, strategy):
    kind = {"priorities": engine == "priority"}
    scheduling = {"strategy": strategy, "window_size": 8, "max_passed_over": 3}
    stock = serve(new_scheduler(Scheduler, tmp_path, **ENGINES[engine]), 5, **kind)
    scheduler = aware(tmp_path, scheduling=scheduling, **ENGINES[engine])
    ours = serve(scheduler, 5, **kind)
    left = {str(name) for name in workload(5)[1].values()}
    assert set(ours.tokens) | left == {str(name) for name in range(60)}
    for name in set(stock.tokens) - left:
        assert ours.tokens[name] == stock.tokens[name]
    for name in left:  # how far they came differs
        shared = min(len(ours.tokens.get(name, [])), len(stock.tokens.get(name, [])))
        assert ours.tokens.get(name, [])[:shared] == stock.tokens.get(name, [])[:shared]
    assert not len(scheduler.admission)
    assert not list(scheduler.admission)
    assert not len(scheduler.waiting)


def test_the_order_is_the_strategys(tmp_path, spool):
    scheduler = aware(tmp_path, max_num_seqs=2)
    for name, load in enumerate([CODE, CODE, CODE, BOOK, BOOK, EVEN]):
        scheduler.add_request(new_request(name, [7] * 40, max_tokens=1, load=load))
    loop = Loop(scheduler).run()
    assert loop.admitted == [["0", "3"], ["1", "4"], ["2", "5"]]


def test_with_one_place_the_choice_is_beside_who_runs(tmp_path, spool):
    scheduler = aware(tmp_path, max_num_seqs=2)
    scheduler.add_request(new_request("runs", [7] * 40, max_tokens=9, load=CODE))
    loop = Loop(scheduler)
    loop.step()
    for name, load in (("code", CODE), ("book", BOOK)):
        scheduler.add_request(new_request(name, [7] * 40, max_tokens=2, load=load))
    assert loop.run().order == ["runs", "book", "code"]


def test_nobody_is_passed_over_more_often_than_the_bound(tmp_path, spool):
    scheduler = aware(tmp_path, scheduling={"max_passed_over": 3}, max_num_seqs=2)
    scheduler.add_request(new_request("runs", [7] * 40, max_tokens=100, load=CODE))
    loop = Loop(scheduler)
    loop.step()
    scheduler.add_request(new_request("oldest", [7] * 40, max_tokens=1, load=CODE))
    for name in range(8):
        scheduler.add_request(new_request(name, [7] * 40, max_tokens=1, load=BOOK))
    order = loop.run().order
    assert order[1:6] == ["0", "1", "2", "oldest", "3"]
    passed_over = scheduler.admission.snapshot(num_running=0).passed_over
    assert passed_over.sum == 3, "one step each, for the one request that younger ones overtook"


def test_a_preempted_request_goes_before_all_others(tmp_path, spool):
    scheduler = aware(tmp_path, num_blocks=13, max_num_seqs=2)
    for name in ("first", "second"):
        scheduler.add_request(new_request(name, [7] * 5 * BLOCK, max_tokens=40, load=CODE))
    loop = Loop(scheduler)
    loop.step()
    scheduler.add_request(new_request("third", [7] * BLOCK, max_tokens=2, load=BOOK))
    loop.run()
    assert loop.order == ["first", "second", "second", "third"]
    assert all(len(tokens) == most for tokens, most in zip(loop.tokens.values(), (40, 40, 2), strict=True))


def test_cached_tokens_route_nothing(tmp_path, spool):
    """Of two alike, of whose prompt one has most cached, that one joins a request that uses the same experts."""
    scheduler = aware(tmp_path, caching=True, max_num_seqs=2)
    shared = list(range(4 * BLOCK))
    scheduler.add_request(new_request("before", shared, max_tokens=1, load=CODE))
    loop = Loop(scheduler).run()
    scheduler.add_request(new_request("runs", [9] * 40, max_tokens=9, load=CODE))
    loop.step()
    scheduler.add_request(new_request("new", [8] * 4 * BLOCK + [1] * 3, max_tokens=1, load=CODE))
    scheduler.add_request(new_request("cached", [*shared, 1, 1, 1], max_tokens=1, load=CODE))
    assert scheduler._cached_tokens(scheduler.requests["cached"]) == 4 * BLOCK
    assert scheduler._cached_tokens(scheduler.requests["new"]) == 0
    assert loop.run().order == ["before", "runs", "cached", "new"]
    assert loop.handed_out[-9:].count({"runs": 1, "cached": 3}) == 1


def test_what_is_cached_while_a_request_waits_is_noticed(tmp_path, spool):
    scheduler = aware(tmp_path, caching=True, max_num_seqs=1)
    shared = list(range(4 * BLOCK))
    for name in ("a", "b", "c"):
        scheduler.add_request(new_request(name, [*shared, ord(name)], max_tokens=2, load=CODE))
    loop = Loop(scheduler)
    loop.step()
    assert [scheduler.admission.tokens(name) for name in "bc"] == [4 * BLOCK + 1] * 2
    loop.step()
    assert [scheduler.admission.tokens(name) for name in "bc"] == [1, 1]


def test_only_the_best_priority_is_chosen_among(tmp_path, spool):
    scheduler = aware(tmp_path, policy="priority", max_num_seqs=2)
    scheduler.add_request(new_request("runs", [7] * 40, max_tokens=9, load=CODE))
    loop = Loop(scheduler)
    loop.step()
    for name, priority, load in (("low", 1, BOOK), ("code", 0, CODE), ("book", 0, BOOK), ("high", -3, CODE)):
        scheduler.add_request(new_request(name, [7] * 40, max_tokens=1, priority=priority, load=load))
    assert loop.run().order == ["runs", "high", "book", "code", "low"]


def test_without_the_priority_policy_priorities_are_not_looked_at(tmp_path, spool):
    scheduler = aware(tmp_path, scheduling={"strategy": "fcfs"}, max_num_seqs=1)
    for name, priority in (("a", 5), ("b", 0), ("c", -5)):
        scheduler.add_request(new_request(name, [7] * 40, max_tokens=1, priority=priority))
    assert Loop(scheduler).run().order == ["a", "b", "c"]


def test_a_load_that_is_none_is_ignored_and_counted(tmp_path, spool, caplog):
    scheduler = aware(tmp_path, max_num_seqs=1)
    bad = [[1.0], [float("nan")] * 8, [-1.0] * 8, ["x"] * 8, "load", {"a": 1}, [True] * 8, [2**63] * 7, 3]
    for name, load in enumerate(bad):
        scheduler.add_request(new_request(name, [7] * 40, max_tokens=1, load=load))
    assert len(Loop(scheduler).run().order) == len(bad)
    assert scheduler.num_ignored_loads == len(bad)
    assert caplog.text.count("is ignored") == 1


def test_a_load_that_no_predictor_uses_is_ignored(tmp_path, spool):
    scheduler = aware(tmp_path, scheduling={"strategy": "auto", "predictor": "none"})
    scheduler.add_request(new_request("a", [7] * 40, load=CODE))
    Loop(scheduler).run()
    assert scheduler.num_ignored_loads == 1


def test_what_cannot_act_stops_the_start(tmp_path, spool):
    with pytest.raises(ConfigError, match=r"scheduler_cls = 'ExpertAwareScheduler'.*--additional-config"):
        new_scheduler(ExpertAwareScheduler, tmp_path)
    client = {"evenmoe": {"scheduling": {"predictor": "client"}}}
    with pytest.raises(
        ConfigError, match=r"predictor = 'client'.*--logits-processors evenmoe\.serving\.vllm"
    ):
        new_scheduler(ExpertAwareScheduler, tmp_path, client)


def test_an_asynchronous_engine_has_a_scheduler_of_its_kind(tmp_path, spool):
    scheduler = aware(tmp_path, is_async=True)
    assert isinstance(scheduler, AsyncExpertAwareScheduler)
    assert isinstance(scheduler, AsyncScheduler)
    assert type(aware(tmp_path)) is ExpertAwareScheduler
    stock = serve(new_scheduler(AsyncScheduler, tmp_path, is_async=True), 2)
    ours = serve(aware(tmp_path, scheduling={"strategy": "fcfs"}, is_async=True), 2)
    assert ours.handed_out == stock.handed_out
    left = {str(name) for name in workload(2)[1].values()}
    assert set(serve(scheduler, 2).tokens) | left == {str(name) for name in range(60)}


def test_every_load_at_the_end_of_a_step_is_compared_with_exactly_its_tokens(tmp_path, spool, monkeypatch):
    """What is observed is what was predicted, token for token: so the prediction is right whenever a worker writes."""
    monkeypatch.setattr("evenmoe.serving.vllm.scheduler.LOOK_EVERY_S", 0.0)
    scheduler = aware(tmp_path, num_blocks=40, max_num_seqs=8, caching=True)
    loop, rng = Loop(scheduler), random.Random(0)
    load_of = {}
    for name in range(30):
        load_of[str(name)] = rng.choice([CODE, BOOK])
        prompt = [name] * rng.randrange(1, 120)
        scheduler.add_request(
            new_request(name, prompt, max_tokens=rng.randrange(1, 20), load=load_of[str(name)])
        )
    total_X, num_tokens, num_written = np.zeros(8), 0, 0
    while scheduler.has_unfinished_requests():
        loop.step()
        for name, tokens in loop.handed_out[-1].items():
            total_X += tokens * np.array(load_of[name]) / 2  # 8 a layer, of which a token has one
            num_tokens += tokens
        if rng.random() < 0.3:
            write_loads_snapshot(counted(total_X.reshape(2, 4) / 4 * 4, num_tokens), spool)
            num_written += 1
    scheduler.add_request(new_request("last", [1], max_tokens=1, load=CODE))
    loop.run()
    snapshot = scheduler.admission.snapshot(num_running=0)
    assert num_written > 5
    assert snapshot.num_feedback >= num_written - 1
    assert snapshot.num_unaligned == 0
    assert snapshot.prediction_error["plain"] < 1e-6


def test_loads_that_end_at_no_step_are_counted_and_passed_over(tmp_path, spool, monkeypatch):
    monkeypatch.setattr("evenmoe.serving.vllm.scheduler.LOOK_EVERY_S", 0.0)
    scheduler = aware(tmp_path)
    loop = Loop(scheduler)
    scheduler.add_request(new_request("a", [7] * 40, max_tokens=9, load=CODE))
    loop.step()
    write_loads_snapshot(counted([[39, 0, 0, 0]] * 2, 39), spool)
    loop.step()
    loop.step()
    assert scheduler.admission.snapshot(num_running=1).num_unaligned == 1
    write_loads_snapshot(counted([[31, 11, 0, 0]] * 2, 42), spool)
    loop.run()
    snapshot = scheduler.admission.snapshot(num_running=1)
    assert (snapshot.num_unaligned, snapshot.num_feedback) == (1, 1)


def test_the_scheduler_tells_what_it_does(tmp_path, spool):
    scheduler = aware(tmp_path, max_num_seqs=2, metrics={"interval_s": 1e-6})
    for name in range(5):
        scheduler.add_request(new_request(name, [7] * 40, max_tokens=2, load=CODE))
    loop = Loop(scheduler)
    loop.step()
    told = read_scheduling_snapshot(spool)
    assert (told.strategy, told.num_waiting, told.num_running) == ("greedy_variance", 3, 2)
    loop.run()
    told = read_scheduling_snapshot(spool)
    assert (told.num_waiting, told.num_running, told.num_admitted) == (0, 0, 5)
    assert sum(told.passed_over.counts) == 5
    assert sum(told.scheduling_s.counts) == len(loop.handed_out)
    assert json.loads((spool.folder / "scheduling.json").read_text())["format"] == "evenmoe.scheduling"


def test_a_full_disk_ends_the_metrics_and_nothing_else(tmp_path, spool, monkeypatch, caplog):
    def fails(self, name, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Spool, "write", fails)
    scheduler = aware(tmp_path)
    scheduler.add_request(new_request("a", [7] * 40, load=CODE))
    assert Loop(scheduler).run().order == ["a"]
    assert caplog.text.count("metrics of scheduling end here") == 1
