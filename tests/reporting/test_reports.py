"""Tables, plots and reports are drawn from data alone, the same data gives the same bytes, and text is escaped."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from evenmoe.errors import FileFormatError
from evenmoe.evaluation.results import Results, Row
from evenmoe.loads import ExpertLoads, LoadCounts, write_loads
from evenmoe.reporting import plots
from evenmoe.reporting.html import featured_rows, loads_report, sweep_report
from evenmoe.reporting.summary import fastest_within, sentence
from evenmoe.reporting.tables import loads_table, results_markdown, results_table, short_names

BEFORE_LE = np.array([[40, 10, 20, 10], [20, 20, 20, 20], [5, 5, 5, 65]])


def make_loads(limit: int | None = None) -> ExpertLoads:
    counts = LoadCounts.undropped(BEFORE_LE, top_k=2)
    if limit:
        after_LE = np.minimum(BEFORE_LE, limit)
        counts = replace(counts, after_LE=after_LE, kept_L=after_LE.sum(-1))
    return ExpertLoads(
        layers=("layers.0", "layers.1", "layers.2"),
        num_experts_L=np.full(3, 4),
        top_k=2,
        total=counts,
        by_tag={"code": counts, "<b>law</b>": counts},
    )


def make_row(policy: str, gamma: float | None, accuracy: float, factor: float) -> Row:
    family = {"baseline": "No limit", "fill": "Fill", "token_drop": "Token Drop"}[policy]
    setting = "" if gamma is None else f"γ {gamma:g}"
    key = policy if gamma is None else f"{policy}-{gamma:g}"
    return Row(
        key=key, label=", ".join(filter(None, (family, setting))), family=family, setting=setting, policy=policy,
        gamma=gamma, scope="local", level="expert", settings={"policy": policy}, next_token_accuracy=accuracy,
        accuracy_change=accuracy - 0.30, accuracy_change_stderr=0.001, bits_per_byte=2.0, drop_rate=0.1,
        relative_work=0.9, peak_to_mean_before=2.6, peak_to_mean_after=1.6, straggler_factor=factor,
        gate_mass_kept=0.95, tokens_without_expert=0.01, seconds=1.0, accuracy_by_domain={"code": accuracy},
        loads_file=f"loads/{key}.json",
    )  # fmt: skip


@pytest.fixture
def results() -> Results:
    rows = (
        make_row("baseline", None, 0.300, 1.50),
        make_row("token_drop", 1.5, 0.298, 1.20),
        make_row("token_drop", 1.0, 0.280, 0.95),
        make_row("fill", 1.5, 0.299, 1.20),
        make_row("fill", 1.0, 0.285, 0.94),
    )
    config = {"model": "a <model>", "num_devices": 4}
    return Results(kind="sweep", config=config, seed=0, versions={"evenmoe": "0"}, rows=rows)


@pytest.fixture
def out(tmp_path, results):
    (tmp_path / "loads").mkdir()
    results.write(tmp_path / "results.json")
    for row in results.rows:
        write_loads(
            make_loads(None if row.gamma is None else round(20 * row.gamma)), tmp_path / row.loads_file
        )
    return tmp_path


def test_the_summary_takes_the_fastest_row_within_the_loss(results):
    best = fastest_within(results)
    assert best is not None
    assert best.label == "Fill, γ 1.5", "equal factor: the better quality wins"
    assert "1.50 times the even load" in sentence(results)
    assert "-0.10 points" in sentence(results)
    assert fastest_within(results, loss_points=5).label == "Fill, γ 1"


def test_the_summary_says_so_when_nothing_pays(results):
    hopeless = results.model_copy(update={"rows": (results.rows[0], results.rows[2])})
    assert fastest_within(hopeless) is None
    assert "No policy here" in sentence(hopeless)


def test_every_row_is_in_the_terminal_table(results):
    console = Console(file=io.StringIO(), width=160)
    console.print(results_table(results, 160, "title"))
    text = console.file.getvalue()
    assert text.count("Token Drop") == 2
    for figure in ("30.00", "-2.00 ± 0.10", "2.60", "1.60", "0.95"):
        assert figure in text
    assert "+0.00" not in text, "the baseline has no change"


def test_a_narrow_terminal_gets_fewer_columns_and_none_cut_off(results):
    console = Console(file=io.StringIO(), width=80)
    console.print(results_table(results, 80))
    text = console.file.getvalue()
    assert "…" not in text
    assert "bits/byte" not in text
    assert "-2.00 " in text


def test_the_markdown_table_has_every_row_and_column(results):
    lines = results_markdown(results).splitlines()
    assert len(lines) == 2 + len(results.rows)
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert "| Fill | γ 1.5 | 29.90 | -0.10 ± 0.10 |" in lines[5]


def test_the_loads_table_has_a_column_per_domain():
    console = Console(file=io.StringIO(), width=160)
    console.print(loads_table(make_loads(), 160))
    text = console.file.getvalue()
    assert "code" in text
    assert "2.00" in text
    assert "3.25" in text


def test_the_report_is_one_escaped_file_and_deterministic(out):
    first = sweep_report(out).read_text()
    assert sweep_report(out).read_text() == first
    assert "a &lt;model&gt;" in first
    assert "&lt;b&gt;law&lt;/b&gt;" in first
    assert "<script" not in first
    assert "http://" not in first.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert first.count("<svg") == 4


def test_featured_rows_are_at_the_wanted_gamma(results):
    assert [row.key for row in featured_rows(results)] == ["token_drop-1", "fill-1"]
    assert [row.key for row in featured_rows(results, gamma=1.4)] == ["token_drop-1.5", "fill-1.5"]


def test_a_report_without_its_data_is_an_error(tmp_path, out):
    with pytest.raises(FileNotFoundError):
        sweep_report(tmp_path / "empty")
    (out / "loads" / "baseline.json").write_text("{}")
    with pytest.raises(FileFormatError, match=r"baseline\.json"):
        sweep_report(out)


def test_loads_report(tmp_path):
    html = loads_report(make_loads(), tmp_path / "deep" / "report.html", "Loads <1>").read_text()
    assert "Loads &lt;1&gt;" in html
    assert "Which experts each domain uses" in html


def test_normalised_loads_average_to_one_and_mark_missing_experts():
    panel = plots.normalised(BEFORE_LE, np.array([4, 4, 4]))
    np.testing.assert_allclose(panel.mean(-1), 1.0)
    short = plots.normalised(np.array([[3, 1, 0, 0]]), np.array([2]))
    assert short[0, :2].tolist() == [1.5, 0.5]
    assert np.isnan(short[0, 2:]).all()
    assert plots.normalised(np.zeros((1, 2)), np.array([2])).tolist() == [[0.0, 0.0]]


def test_the_most_uneven_layer():
    assert plots.most_uneven_layer(make_loads()) == 2


def test_layers_go_by_their_number_where_that_is_enough():
    assert short_names(["model.layers.0.mlp", "model.layers.12.mlp"]) == ["0", "12"]
    for names in (["a.0.b.1", "a.0.b.2"], ["text.1", "vision.1"], ["router"]):
        assert short_names(names) == names
