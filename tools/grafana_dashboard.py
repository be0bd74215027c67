"""Writes the Grafana dashboard that ships: `python -m tools.grafana_dashboard`.

Every panel is a question about a server and the PromQL that answers it over the window chosen above the panels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evenmoe.serving.observation import names
from evenmoe.serving.observation.names import Metric

OUT = Path(__file__).parents[1] / "src" / "evenmoe" / "serving" / "observation" / "grafana.json"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24


def rate(metric: Metric | str, by: str = "", **labels: str) -> str:
    """What a counter moves by in a second, summed over all labels but those in `by`."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({_selector(metric, labels)}[$window]))"


def now(metric: Metric, **labels: str) -> str:
    """A gauge as it is."""
    return _selector(metric, labels)


def quantile(q: float, metric: Metric) -> str:
    """A quantile of a histogram's values in the window."""
    return f"histogram_quantile({q}, {rate(f'{metric.name}_bucket', by='le')})"


def mean(metric: Metric) -> str:
    """The mean of a histogram's values in the window."""
    return f"{rate(f'{metric.name}_sum')} / {rate(f'{metric.name}_count')}"


def _selector(metric: Metric | str, labels: dict[str, str]) -> str:
    name = metric if isinstance(metric, str) else metric.name
    matchers = [f'{label}="{value}"' for label, value in labels.items()] + ['instance=~"$instance"']
    return f"{name}{{{','.join(matchers)}}}"


def straggler(stage: str, by: str = "") -> str:
    """The straggler factor of a stage."""
    return f"{rate(names.BUSIEST_DEVICE_PAIRS, by, stage=stage)} / {rate(names.EVEN_DEVICE_PAIRS, by)}"


def expert_peak(stage: str, by: str = "") -> str:
    """Busiest expert over the mean expert."""
    return f"{rate(names.BUSIEST_EXPERT_PAIRS, by, stage=stage)} / {rate(names.EVEN_EXPERT_PAIRS, by, stage=stage)}"


def dropped(by: str = "") -> str:
    """The drop rate."""
    return f"1 - {rate(names.PAIRS_KEPT, by)} / {rate(names.PAIRS_ASKED, by)}"


def panel(
    title: str,
    description: str,
    queries: dict[str, str],
    *,
    kind: str = "timeseries",
    unit: str = "short",
    width: int = 12,
    height: int = 8,
    decimals: int | None = None,
) -> dict[str, Any]:
    """A panel with one line (or one number) for each query, by its legend."""
    defaults: dict[str, Any] = {"unit": unit}
    if decimals is not None:
        defaults["decimals"] = decimals
    return {
        "title": title,
        "description": description,
        "type": kind,
        "datasource": DATASOURCE,
        "gridPos": {"w": width, "h": height},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": expr, "legendFormat": legend}
            for index, (legend, expr) in enumerate(queries.items())
        ],
    }


def number(
    title: str, description: str, expr: str, *, unit: str = "short", decimals: int = 2
) -> dict[str, Any]:
    """One number of now."""
    return panel(title, description, {"": expr}, kind="stat", unit=unit, width=4, height=4, decimals=decimals)


def as_table(found: dict[str, Any], transformations: list[dict[str, Any]]) -> dict[str, Any]:
    """A panel of instant queries as a table."""
    targets = [target | {"format": "table", "instant": True} for target in found["targets"]]
    return found | {"type": "table", "targets": targets, "transformations": transformations}


def heat_map() -> dict[str, Any]:
    """A matrix of layers and devices, coloured by load over the even load."""
    expr = (
        f"{rate(names.EXPERT_PAIRS, 'layer, device', stage='ran')} / on (layer) group_left () "
        f"{rate(names.EVEN_DEVICE_PAIRS, 'layer')}"
    )
    found = panel(
        "Load of each device over the even load, by layer",
        "Rows are MoE layers, columns devices; 1 is even. As it ran, over the even load of all that was asked for.",
        {"": expr},
        width=WIDTH,
        height=12,
        decimals=2,
    )
    matrix = {
        "id": "groupingToMatrix",
        "options": {"rowField": "layer", "columnField": "device", "valueField": "Value"},
    }
    found["fieldConfig"]["defaults"] |= {
        "custom": {"align": "center", "cellOptions": {"type": "color-background", "mode": "gradient"}},
        "color": {"mode": "continuous-YlRd"},
        "min": 0,
        "max": 2,
    }
    return as_table(found, [matrix])


def panels() -> list[dict[str, Any]]:
    """All panels in order, without places."""
    return [
        number("Straggler factor", "Busiest device over the even load, as it ran.", straggler("ran")),
        number("Straggler factor as asked", "Had nothing been dropped.", straggler("asked")),
        number("Dropped", "Share of top-k assignments that did not run.", dropped(), unit="percentunit"),
        number(
            "Tokens without expert",
            "Share of tokens of which no routed expert ran, averaged over layers.",
            f"{rate(names.TOKENS_WITHOUT_EXPERT)} / {rate(names.LAYER_TOKENS)}",
            unit="percentunit",
        ),
        number("Waiting", "Requests in the queue.", f"sum ({now(names.REQUESTS_WAITING)})", decimals=0),
        number(
            "Told after",
            "Loads are told as sums over at least this many requests.",
            f"max ({now(names.LEAST_REQUESTS)})",
            decimals=0,
        ),
        heat_map(),
        panel(
            "Straggler factor",
            "How many times longer the MoE layers take than with an even load.",
            {"as it ran": straggler("ran"), "as asked": straggler("asked")}
            | {"since the start, {{stage}}": now(names.STRAGGLER_FACTOR)},
        ),
        panel("Straggler factor by layer", "As it ran.", {"layer {{layer}}": straggler("ran", "layer")}),
        panel(
            "Busiest expert over the mean expert",
            "By step, weighted by load.",
            {"as it ran": expert_peak("ran"), "as asked": expert_peak("asked")},
        ),
        panel(
            "Dropped, by layer",
            "Share of top-k assignments that did not run.",
            {"layer {{layer}}": dropped("layer")},
            unit="percentunit",
        ),
        panel(
            "Tokens, requests, steps per second",
            "As told with the loads: they move together.",
            {
                "tokens": rate(names.ROUTED_TOKENS),
                "requests": rate(names.ROUTED_REQUESTS),
                "steps": rate(names.ROUTED_STEPS),
            },
        ),
        panel(
            "Queue",
            "Requests now, and how many leave the queue in a second.",
            {
                "waiting": f"sum ({now(names.REQUESTS_WAITING)})",
                "running": f"sum ({now(names.REQUESTS_RUNNING)})",
                "admitted per second": rate(names.REQUESTS_ADMITTED),
            },
        ),
        panel(
            "Times passed over",
            "Steps that admitted a younger request first, of each admitted request.",
            {"mean": mean(names.PASSED_OVER), "P99": quantile(0.99, names.PASSED_OVER)},
        ),
        panel(
            "Scheduling time",
            "Of one step's decision.",
            {
                "mean": mean(names.SCHEDULING_SECONDS),
                "P50": quantile(0.5, names.SCHEDULING_SECONDS),
                "P99": quantile(0.99, names.SCHEDULING_SECONDS),
            },
            unit="s",
        ),
        panel(
            "Prediction error",
            "1 - recent mean cosine of predicted and observed loads; 0 is perfect.",
            {"{{predictor}}": now(names.PREDICTION_ERROR)},
        ),
        panel(
            "Comparisons of prediction and load per second",
            "Unaligned: loads that matched no step boundary of the scheduler.",
            {"compared": rate(names.FEEDBACK_COMPARISONS), "unaligned": rate(names.FEEDBACK_UNALIGNED)},
        ),
        as_table(panel("Configuration", "What each server was started with.", {"": now(names.CONFIG)}), []),
        as_table(panel("Layers", "Experts of each MoE layer.", {"": now(names.LAYER_EXPERTS)}), []),
    ]


def placed(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Panels from left to right, line by line, numbered."""
    placed: list[dict[str, Any]] = []
    x = y = 0
    for index, panel in enumerate(found):
        size = panel["gridPos"]
        if x + size["w"] > WIDTH:
            x, y = 0, y + placed[-1]["gridPos"]["h"]
        placed.append(panel | {"id": index + 1, "gridPos": size | {"x": x, "y": y}})
        x += size["w"]
    return placed


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    window = {
        "name": "window",
        "label": "Window of rates",
        "type": "interval",
        "query": "1m,5m,15m,1h",
        "current": {"text": "5m", "value": "5m"},
    }
    instance = {
        "name": "instance",
        "label": "Server",
        "type": "query",
        "datasource": DATASOURCE,
        "query": f"label_values({names.CONFIG.name}, instance)",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
    datasource = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return {
        "title": "evenmoe: how even are the experts?",
        "uid": "evenmoe",
        "tags": ["evenmoe", "moe", "inference"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [datasource, instance, window]},
        "panels": placed(panels()),
    }


if __name__ == "__main__":
    OUT.write_text(json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
