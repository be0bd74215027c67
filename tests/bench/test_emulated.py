"""Emulated devices run what the loads say, by the code that ranks run, and are put side by side exactly."""

import numpy as np
import pytest
import torch

from evenmoe import attach
from evenmoe.bench.emulated import Link, run_emulated, side_by_side
from evenmoe.bench.job import LayerJob, Setting
from evenmoe.bench.phases import LayerRecord, Segment
from evenmoe.bench.results import Timed, make_rows
from evenmoe.bench.routed import contiguous_placement, route
from evenmoe.bench.shares import synthetic_shares
from evenmoe.costs import LayerShape
from evenmoe.errors import ConfigError, ShapeError
from evenmoe.placement import Placement
from evenmoe.routing import Baseline, ExpandedDrop, Fill, TokenDrop

LINK = Link.of(1.0, 10.0)


def make_job(name="olmoe", policies=(), placement=None, num_experts=16, top_k=4, **changed):
    shape = LayerShape(
        name=name,
        hidden=16,
        intermediate=8,
        num_experts=num_experts,
        top_k=top_k,
        shared_intermediate=0 if name in ("olmoe", "mixtral") else 16,
        num_devices=4,
    )
    settings = tuple(Setting(label=p.name, policy=p) for p in (Baseline(), *policies))
    options = {"num_tokens": 130, "repeats": 2, "seed": 3} | changed
    return LayerJob(
        shape=shape,
        shares=synthetic_shares(num_experts, top_k, 2.5),
        placement=placement or contiguous_placement(num_experts, 4),
        settings=settings,
        dtype=torch.float32,
        **options,
    )


@pytest.mark.parametrize("name", ["olmoe", "deepseek-v2-lite", "qwen1.5-moe", "mixtral"])
def test_devices_run_the_pairs_that_the_loads_say(name):
    """The emulated group refuses other counts, so that running at all shows that hooks and routing agree."""
    job = make_job(name, (TokenDrop(gamma=1.0), ExpandedDrop(gamma=1.0), Fill(gamma=1.0)))
    routing = job.draw()
    routed = job.routed(routing)
    emulated = run_emulated(job, routed, LINK)
    rows = make_rows(job, routed, [Timed.of_emulated(passes) for passes in emulated], None)
    assert rows[0].pairs_kept == rows[0].speedup == rows[0].load_speedup == 1.0
    assert sum(device.pairs_run for device in rows[0].devices) == routing.count_E.sum()
    for row in rows:
        sums = [sum(device.wall_ms.values()) for device in row.devices]
        assert sums == pytest.approx([row.layer_ms] * 4)
        assert all(device.wall_ms["expert"] > 0 for device in row.devices)
        assert row.layer_ms_best <= row.layer_ms
    token_drop, expanded, fill = rows[1:]
    assert token_drop.pairs_kept == token_drop.pairs_run < 1
    assert fill.pairs_kept == token_drop.pairs_kept < fill.pairs_run <= 1
    assert expanded.pairs_run > expanded.pairs_kept


def test_a_placement_with_copies_is_followed():
    rows = [[0, 1, 2, 3], *([e % 4] for e in range(1, 16))]
    job = make_job(policies=(TokenDrop(gamma=1.0),), placement=Placement.of([rows], 4))
    routed = job.routed(job.draw())
    run_emulated(job, routed, LINK)
    assert (routed[0].run_DDE[:, :, 0].diagonal() == routed[0].run_DE[:, 0]).all()


def test_counts_are_those_of_an_attached_run_in_one_process():
    job = make_job(policies=(TokenDrop(gamma=1.0),), num_tokens=128)
    routing = job.draw()
    layer = job.build()
    layer.fill_experts(0)
    with (
        attach(layer, TokenDrop(gamma=1.0), num_devices=4) as attached,
        attached.assign([0, 1, 2, 3]),
        torch.inference_mode(),
    ):
        layer.answer = layer.answer_for(routing)
        layer(inputs_embeds=torch.randn(4, 32, 16))
    counted = route(TokenDrop(gamma=1.0), routing, job.placement, job.seed)
    assert attached.loads.total.after_LE[0].tolist() == counted.run_DE.sum(0).tolist()
    assert attached.loads.total.before_LE[0].tolist() == routing.count_E.tolist()
    assert attached.loads.straggler_factor == pytest.approx(counted.straggler_factor)


def record(rank, gate, expert, sums):
    segments, now = [], 0
    for phase, ns in (
        ("gate", gate),
        ("dispatch", 999),
        ("expert", expert),
        ("combine", 999),
        ("permute", sums),
    ):
        segments.append(Segment(phase=phase, start_ns=now, wall_ns=ns, cpu_ns=ns))
        now += ns
    return LayerRecord(rank=rank, step=0, layer=0, segments=tuple(segments))


def test_side_by_side_worked_by_hand():
    """Gates take 10 and 4, experts 20 and 50, sums 1 and 2; exchanges 7 and 6: 10 + 7 + 50 + 6 + 2 = 75."""
    first, second = side_by_side([record(0, 10, 20, 1), record(1, 4, 50, 2)], 7, 6)
    assert first.wall_ns == second.wall_ns == 75
    assert first.by_phase()["wait"] == 0 + 30 + 1
    assert second.by_phase()["wait"] == 6 + 0 + 0
    assert (second.by_phase()["dispatch"], second.by_phase()["combine"]) == (7, 6)
    for aligned in (first, second):
        ends = [segment.start_ns + segment.wall_ns for segment in aligned.segments]
        assert [segment.start_ns for segment in aligned.segments] == [0, *ends[:-1]]
    assert next(s.start_ns for s in second.segments if s.phase == "expert") == 17


def test_an_exchange_lasts_as_long_as_the_device_that_moves_most():
    traffic_DD = np.array([[100, 5, 5], [30, 100, 20], [0, 0, 100]])
    # Device 1 sends 50 rows and device 0 receives 30: 50 rows of 1000 bytes at 10^9 bytes/s are 50 us, plus 10.
    assert LINK.exchange_ns(traffic_DD, 1000) == (70_000, 60_000)
    assert LINK.exchange_ns(np.array([[7]]), 1000) == (0, 0)


def test_what_cannot_be_emulated_is_refused():
    job = make_job(policies=(TokenDrop(gamma=1.0, scope="global"),))
    with pytest.raises(ConfigError, match="--mode ranks"):
        run_emulated(job, job.routed(job.draw()), LINK)
    with pytest.raises(ConfigError, match="link_gb_s"):
        Link.of(0.0, 1.0)


def test_a_job_that_does_not_fit_together_is_refused():
    with pytest.raises(ShapeError, match="is one layer of 16"):
        make_job(placement=contiguous_placement(8, 4))
    with pytest.raises(ConfigError, match="at least one for each of 4"):
        make_job(num_tokens=3)
    with pytest.raises(ConfigError, match="at most the 2 experts"):
        contiguous_placement(2, 4)
