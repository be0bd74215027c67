"""The scheduling study's results as tables and sentences, drawn from `results.json` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

_LOOKS: Any = {"box": box.SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False, "title_justify": "left"}
PATTERNS = {"bursty": "Bursts on one topic", "poisson": "Poisson arrivals"}
WIDE = 100
"""Terminals of fewer columns get the gains by rate without their intervals."""

_P99 = "p99_reduction_pct"


def gains_table(body: Mapping[str, Any], pattern: str, width: int = WIDE) -> Table:
    """P99 gain over fcfs at each rate, with its 95% interval where there is room; the rest is over all rates."""
    at_rates = body[pattern]
    table = _table(f"{PATTERNS[pattern]}: P99 gain over fcfs, %")
    _columns(table, "strategy", *(f"{rate}/s" for rate in at_rates), "requests/s", "imbalance")
    for strategy in body["strategies"]:
        throughput = _mean(at[strategy]["throughput_mean"] for at in at_rates.values())
        imbalance = _mean(at[strategy]["imbalance_mean"] for at in at_rates.values())
        cells = [_gain(at, strategy, width >= WIDE) for at in at_rates.values()]
        table.add_row(strategy, *cells, f"{throughput:.1f}", f"{imbalance:.3f}")
    return table


def published_table(body: Mapping[str, Any], pattern: str) -> Table:
    """Every published figure of a pattern beside ours, with the difference."""
    table = _table(f"{PATTERNS[pattern]}: beside the published figures")
    _columns(table, "of", "figure", "rate", "published", "here", "differ", left=3)
    for line in body["published"]:
        if line["pattern"] != pattern:
            continue
        digits = 3 if line["figure"] == "imbalance" else 1
        ranges = (_range(line[key], digits) for key in ("published", "here"))
        rate = "all" if line["rate_per_s"] is None else f"{line['rate_per_s']:g}/s"
        table.add_row(line["of"], line["figure"], rate, *ranges, f"{line['difference']:+z.{digits}f}")
    return table


def fluid_table(body: Mapping[str, Any]) -> Table:
    """The P99 gain of the strategy of the highest capacity: by the fluid queue, simulated, published."""
    published = {
        (line["pattern"], line["rate_per_s"]): _range(line["published"], 1)
        for line in body["published"]
        if line["rate_per_s"] is not None
    }
    table = _table("A fluid queue beside the simulation: P99 gain over fcfs, %")
    _columns(table, "arrivals", "strategy", "capacity", "fluid", "here", "published", left=2)
    for pattern in (name for name in PATTERNS if name in body):
        for rate, at in body[pattern].items():
            if not at["_improvements"]:
                continue
            fluid = at["_fluid"]
            best = max(fluid, key=lambda name: float(fluid[name]["capacity_gain_pct"]))
            predicted = fluid[best][_P99]
            table.add_row(
                f"{pattern} {rate}/s",
                best,
                f"{fluid[best]['capacity_gain_pct']:+z.1f}%",
                "fcfs keeps up" if predicted is None else f"{predicted:+z.1f}",
                f"{at['_improvements'][best][_P99]:+z.1f}",
                published.get((pattern, float(rate)), ""),
            )
    return table


def steady_table(body: Mapping[str, Any], pattern: str) -> Table:
    """P50 and P99 of every strategy at each share of fcfs's capacity, and their gains with 95% intervals."""
    steady = body["steady_state"]
    capacity = steady["capacity_per_s"][pattern]
    table = _table(f"{PATTERNS[pattern]}, steady state: fcfs serves {capacity:.1f} requests/s at most")
    _columns(table, "load", "strategy", "P50 ms", "P99 ms", "P50 gain, %", "P99 gain, %", "waiting", left=2)
    lines = [line for line in steady["lines"] if line["pattern"] == pattern]
    for line, following in zip(lines, [*lines[1:], None], strict=True):
        table.add_row(
            f"{line['share']:.0%}",
            line["strategy"],
            f"{1000 * line['p50_s']:.0f}",
            f"{1000 * line['p99_s']:.0f}",
            _spread(line["p50_gain"]),
            _spread(line["p99_gain"]),
            f"{line['queue_depth']:.1f}",
            end_section=following is not None and following["share"] != line["share"],
        )
    return table


def shape_table(body: Mapping[str, Any]) -> Table:
    """What the published results say, and whether it comes out here."""
    table = _table("The published shape")
    _columns(table, "", "statement", "because", left=3)
    for statement in body["shape"]:
        table.add_row("yes" if statement["holds"] else "NO", statement["says"], statement["because"])
    return table


def all_tables(body: Mapping[str, Any], width: int = WIDE) -> list[Table]:
    """Everything that the command prints, in order, for a terminal of so many columns."""
    patterns = [pattern for pattern in PATTERNS if pattern in body]
    tables = [gains_table(body, pattern, width) for pattern in patterns]
    tables += [published_table(body, pattern) for pattern in patterns]
    tables += [fluid_table(body), shape_table(body)]
    if body["steady_state"] is not None:
        tables += [steady_table(body, pattern) for pattern in patterns]
    return [table for table in tables if table.row_count]


def cell_lines(body: Mapping[str, Any]) -> list[str]:
    """One line of text for each run."""
    return [
        f"{row['pattern']} {row['rate_per_s']:g}/s seed {row['seed']} {row['strategy']}: "
        f"P50 {row['latency_p50_s']:.4f} s, P90 {row['latency_p90_s']:.4f} s, P99 {row['latency_p99_s']:.4f} s, "
        f"{row['throughput_requests_s']:.2f} requests/s, imbalance {row['imbalance']:.4f}, "
        f"passed over at most {row['passed_over_max']} times, ended: {row['ended']}"
        for row in body["cells"]
    ]


def _table(title: str) -> Table:
    return Table(title=title, **_LOOKS)


def _columns(table: Table, *names: str, left: int = 1) -> None:
    for number, name in enumerate(names):
        justify: Any = "left" if number < left else "right"
        table.add_column(name, justify=justify, no_wrap=name not in ("statement", "because"))


def _gain(at: Mapping[str, Any], strategy: str, with_interval: bool) -> str:
    """A gain, with half the width of its interval; of fcfs the P99 itself."""
    if strategy not in at["_improvements"]:
        return f"{at[strategy]['p99_mean']:.2f} s"
    interval = at["_intervals"][strategy][_P99]
    half = "" if interval is None or not with_interval else f" ±{(interval[1] - interval[0]) / 2:.1f}"
    return f"{at['_improvements'][strategy][_P99]:+z.1f}{half}"


def _spread(gain: Mapping[str, float] | None) -> str:
    if gain is None:
        return ""
    half = "" if gain["low"] is None else f" ±{50 * (gain['high'] - gain['low']):.1f}"
    return f"{100 * gain['mean']:+z.1f}{half}"


def _range(pair: Sequence[float], digits: int) -> str:
    low, high = (f"{value:.{digits}f}" for value in pair)
    return low if low == high else f"{low} to {high}"


def _mean(values: Any) -> float:
    found = list(values)
    return float(sum(found) / len(found))
