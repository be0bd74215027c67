"""What `bench saving` reports, on a tiny layer; no time is asserted."""

from __future__ import annotations

import torch

from evenmoe.bench.job import LayerJob, Setting
from evenmoe.bench.routed import contiguous_placement
from evenmoe.bench.saving import PLAIN, bench_saving
from evenmoe.bench.shares import synthetic_shares
from evenmoe.costs import LayerShape
from evenmoe.routing import Baseline, TokenDrop


def test_rows_are_the_plain_layers_and_every_setting():
    shape = LayerShape(
        name="tiny", hidden=16, intermediate=8, num_experts=8, top_k=2, num_layers=1, num_devices=2
    )
    settings = (
        Setting(label="No limit", policy=Baseline()),
        Setting(label="Token Drop", policy=TokenDrop(gamma=1.0), gamma=1.0),
    )
    job = LayerJob(
        shape=shape,
        shares=synthetic_shares(8, 2, 3.0),
        num_tokens=64,
        placement=contiguous_placement(8, 2),
        settings=settings,
        dtype=torch.float32,
        repeats=2,
    )
    heard = []
    rows = bench_saving(job, lambda *words: heard.append(words))
    assert [row.label for row in rows] == ["plain"] * len(PLAIN) + ["Token Drop"]
    assert [row.implementation for row in rows[: len(PLAIN)]] == list(PLAIN)
    reference = next(row for row in rows[: len(PLAIN)] if row.implementation == rows[-1].implementation)
    assert reference.ratio == 1.0
    assert rows[-1].gamma == 1.0
    kept = job.routed(job.draw())[1].pairs_run
    assert rows[-1].pairs_run == kept < 1.0
    assert all(row.own_share == row.ratio - row.pairs_run and row.layer_ms > 0 for row in rows)
    assert heard[-1][1:] == (5, 6)
