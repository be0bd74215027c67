"""Figures of speedups and of where the time goes, from small results written out here."""

import json

import pytest

from evenmoe.errors import FileFormatError
from evenmoe.reporting.plots import to_png, to_svg
from evenmoe.reporting.speedups import (
    PHASES,
    compare,
    latency_figure,
    read_bench,
    row_name,
    scaling_share,
    speedup_figure,
)


def row(policy, gamma, speedup, wait, part=None):
    phases = dict.fromkeys(PHASES, 2.0) | {"expert": 40.0, "wait": wait}
    made = {"policy": policy, "gamma": gamma, "speedup": speedup, "load_speedup": speedup * 1.1}
    made |= {"straggler_factor": 1.8 / speedup, "phases_mean": phases, "pairs_kept": 0.7}
    return made | ({"part": part} if part else {})


LAYER = {
    "mode": "emulated",
    "config": {"devices": 8},
    "rows": [
        row("No limit", None, 1.0, 30.0),
        row("Token Drop", 2.0, 1.2, 20.0),
        row("Token Drop", 1.0, 1.5, 10.0),
        row("Fill", 1.0, 1.4, 12.0),
    ],
}
MODEL = LAYER | {
    "rows": [
        row("No limit", None, 1.0, 3.0, "prefill"),
        row("Fill", 1.5, 1.1, 2.0, "prefill"),
        row("No limit", None, 1.0, 3.0, "decode"),
        row("Fill", 1.5, 0.9, 3.0, "decode"),
    ]
}
PUBLISHED = {"Token Drop": {"2": 1.21, "1": 1.46}}


def test_each_row_with_a_gamma_stands_beside_what_was_published():
    compared = compare(LAYER, "olmoe", PUBLISHED)
    assert [(one.policy, one.gamma, one.ours, one.published) for one in compared] == [
        ("Token Drop", 2.0, 1.2, 1.21), ("Token Drop", 1.0, 1.5, 1.46), ("Fill", 1.0, 1.4, None)
    ]  # fmt: skip
    assert compared[1].straggler_before == 1.8
    assert compared[1].straggler_after == pytest.approx(1.2)
    assert compared[1].by_loads == pytest.approx(1.65)


def test_the_share_of_the_time_that_scales_by_hand():
    assert scaling_share(1.0, 2.0) == 0
    assert scaling_share(2.0, 2.0) == 1
    assert scaling_share(4 / 3, 2.0) == pytest.approx(0.5)  # half of the time halves
    assert scaling_share(1.1, 1.0) is None


def test_the_parts_of_a_model_are_compared_apart():
    assert [one.ours for one in compare(MODEL, "m", part="prefill")] == [1.1]
    assert [one.ours for one in compare(MODEL, "m", part="decode")] == [0.9]
    with pytest.raises(FileFormatError, match="no rows of a layer"):
        compare(MODEL, "m")


def test_speedups_are_drawn_bar_by_bar():
    compared = compare(LAYER, "olmoe", PUBLISHED) + compare(MODEL, "a model", part="prefill")
    figure = speedup_figure(compared)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert [title.splitlines()[0] for title in titles] == ["olmoe", "a model"]
    heights = [round(bar.get_height(), 2) for bar in figure.axes[0].patches]
    assert heights == [1.2, 1.21, 1.5, 1.46, 1.4]  # ours, then the published one behind it
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["γ 2", "γ 1"]
    assert to_svg(figure) == to_svg(speedup_figure(compared))


def test_phases_are_stacked_to_the_whole_layer(tmp_path):
    figure = latency_figure({"emulated": LAYER, "ranks": LAYER})
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["emulated", "ranks"]
    bars = figure.axes[0].patches
    assert len(bars) == len(LAYER["rows"]) * len(PHASES)
    ends = [bars[len(PHASES) * (i + 1) - 1] for i in range(len(LAYER["rows"]))]
    assert [bar.get_x() + bar.get_width() for bar in ends] == [
        pytest.approx(sum(row["phases_mean"].values())) for row in LAYER["rows"]
    ]
    assert [row_name(one) for one in LAYER["rows"][:2]] == ["No limit", "Token Drop, γ 2"]
    assert to_png(figure, tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")


def test_results_are_read_back_and_others_refused(tmp_path):
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(LAYER))
    assert read_bench(path)["rows"] == LAYER["rows"]
    for text in ("no json", "[]", '{"mode": "ranks", "config": {}, "rows": []}', '{"rows": [1]}'):
        path.write_text(text)
        with pytest.raises(FileFormatError, match=r"bench\.json"):
            read_bench(path)
    with pytest.raises(FileNotFoundError):
        read_bench(tmp_path / "absent.json")
