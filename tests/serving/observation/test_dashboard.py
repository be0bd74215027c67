"""The Grafana dashboard against the metrics that there are: every name, every label, and none that is never drawn."""

import json
import re
from pathlib import Path

import pytest

from evenmoe.serving.observation.names import METRICS
from tools.grafana_dashboard import OUT, dashboard

SERIES = {name: (metric, labels) for metric in METRICS for name, labels in metric.series.items()}
OF_PROMETHEUS = {"instance", "job"}
NOT_DRAWN: set[str] = set()

DRAWN = json.loads(OUT.read_text(encoding="utf-8"))
QUERIES = [
    (panel["title"], target["expr"], target["legendFormat"])
    for panel in DRAWN["panels"]
    for target in panel["targets"]
]


def selectors(expr):
    """(series, its matchers' labels, whether it is within rate(...)) of each series asked for."""
    for found in re.finditer(r"(rate\()?\b(evenmoe_\w+)(\{[^}]*\})?", expr):
        matchers = found[3] or "{}"
        yield found[2], dict(re.findall(r'(\w+)=~?"([^"]*)"', matchers)), found[1] is not None


def test_the_file_is_what_its_recipe_makes():
    assert json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n" == OUT.read_text(encoding="utf-8")


@pytest.mark.parametrize(("title", "expr", "legend"), QUERIES)
def test_every_query_asks_for_what_there_is(title, expr, legend):
    asked = list(selectors(expr))
    assert asked
    shared = set.intersection(*({*SERIES[name][1]} for name, *_ in asked)) | OF_PROMETHEUS
    for name, matchers, is_rate in asked:
        metric, labels = SERIES[name]
        assert set(matchers) <= {*labels} | OF_PROMETHEUS
        assert matchers["instance"] == "$instance"
        assert matchers.get("stage", "ran") in ("ran", "asked")
        # a counter as such says nothing, and a gauge has no rate
        assert is_rate == (metric.kind in ("counter", "histogram"))
    grouped = {label for by in re.findall(r"\bby \(([^)]*)\)", expr) for label in re.split(", *", by)}
    available = {label for name, *_ in asked for label in SERIES[name][1]} | OF_PROMETHEUS
    assert grouped <= available
    if "histogram_quantile" in expr:
        assert "le" in grouped
    shown = set(re.findall(r"\{\{(\w+)\}\}", legend))
    assert shown <= (grouped or shared)
    assert expr.count("(") == expr.count(")")


def test_every_metric_is_drawn_or_said_not_to_be():
    drawn = {SERIES[name][0].name for _, expr, _ in QUERIES for name, *_ in selectors(expr)}
    assert drawn | NOT_DRAWN == {metric.name for metric in METRICS}
    assert not drawn & NOT_DRAWN


def test_the_check_sees_a_wrong_name_and_a_wrong_label():
    for wrong in ('sum (rate(evenmoe_pairs_total{instance=~"$instance"}[5m]))', "evenmoe_straggler_factor"):
        with pytest.raises((AssertionError, KeyError)):
            test_every_query_asks_for_what_there_is("", wrong, "")
    with pytest.raises(AssertionError):
        test_every_query_asks_for_what_there_is(
            "", 'sum by (device) (rate(evenmoe_pairs_kept_total{instance=~"$instance"}[5m]))', ""
        )


def test_panels_do_not_overlap():
    taken = set()
    for panel in DRAWN["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DRAWN["panels"]}) == len(DRAWN["panels"])


def test_variables_are_defined():
    text = OUT.read_text(encoding="utf-8")
    defined = {variable["name"] for variable in DRAWN["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]\w*)", text.replace("$__all", ""))) <= defined


def test_it_ships_with_the_package():
    from importlib.resources import files

    shipped = files("evenmoe.serving.observation").joinpath("grafana.json")
    assert Path(str(shipped)) == OUT


DOCS = Path(__file__).parents[3] / "docs" / "serving_metrics.md"


def test_the_page_about_metrics_names_each_with_its_labels():
    rows = dict(re.findall(r"^\| `(evenmoe_\w+)` \| ([\w, ]*?) ?\|", DOCS.read_text(encoding="utf-8"), re.M))
    assert rows == {metric.name: ", ".join(metric.labels) for metric in METRICS}


def test_the_page_asks_for_what_there_is():
    text = DOCS.read_text(encoding="utf-8")
    blocks = re.findall(r"```(?:promql|yaml)\n(.*?)```", text, re.S)
    asked = [found for block in blocks for found in selectors(block)]
    assert len(asked) > 15
    for name, matchers, _ in asked:
        assert set(matchers) <= {*SERIES[name][1]}
    for name in re.findall(r"\bevenmoe_\w+", text):
        assert name in SERIES or name in {metric.name for metric in METRICS}
