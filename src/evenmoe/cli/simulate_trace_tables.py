"""What `simulate trace` prints: the figures of each strategy, the gains over fcfs, and the plain sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenmoe.cli.figures import Figure, figures_table

if TYPE_CHECKING:
    from rich.console import Console

    from evenmoe.simulation.studies.intervals import Spread
    from evenmoe.simulation.studies.trace_results import Gain, StrategyLine, TraceResults
    from evenmoe.simulation.studies.trace_study import TraceStudy

_STRATEGY: Figure[StrategyLine] = Figure("strategy", lambda line: line.strategy)
_GAIN_NAMES = {
    "latency_mean_s": "mean",
    "latency_p99_s": "P99",
    "capacity": "capacity",
    "straggler_factor": "straggler",
    "drop_rate": "dropped",
}
_INTERVAL_ROOM = 132
"""Terminals of fewer columns get gains without their intervals."""


def print_results(results: TraceResults, study: TraceStudy, where: str, console: Console) -> None:
    """Print it all, the sentence last."""
    for line in _head(results, study, where):
        console.print(line, highlight=False)
    seeds, lines, width = len(study.seeds), results.lines, console.width
    latencies = f"Latency, time to the first token (TTFT) and between tokens (TPOT), seconds, means over {seeds} seeds"
    console.print(figures_table(latencies, _STRATEGY, _LATENCIES, lines, width))
    machine = "What can be served at most, and how even it is, at this rate and with the queue always full"
    figures = [*_MACHINE, _DROPPED] if any(line.figures["drop_rate"].mean > 0 for line in lines) else _MACHINE
    console.print(figures_table(machine, _STRATEGY, figures, lines, width))
    gains = "Better than fcfs on the same requests by, in % (95% interval over seeds); negative is worse"
    known = [name for name in _GAIN_NAMES if any(line.gains[name] is not None for line in lines)]
    console.print(figures_table(gains, _STRATEGY, [_gain(name, width) for name in known], lines[1:], width))
    if _is_explained(results):
        _print_explained(results, console)
    console.print(f"[bold]{results.advice.sentence}[/]", highlight=False)


def _head(results: TraceResults, study: TraceStudy, where: str) -> list[str]:
    trace, share = study.trace, results.rate_per_s / results.capacity_per_s
    own = results.own_rate_per_s
    lines = [
        f"{trace.source}: {results.num_requests} requests, {own:.3g}/s of their own; run at "
        f"{results.rate_per_s:.3g}/s, {results.rate_per_s / own:.3g} times that and {share:.0%} of the "
        f"{results.capacity_per_s:.3g}/s that fcfs serves.",
        f"{where[0].upper()}{where[1:]}.",
    ]
    topics = ", ".join(study.loads.topics)
    if trace.topic_N is not None:
        lines.append(f"Topics: as the trace names them, of {topics}.")
    elif study.by_session:
        lines.append(f"Topics: the trace names none; each session has one of {topics}.")
    else:
        lines.append(
            f"Topics: the trace names none; drawn, {study.topic_run:g} requests in a row on average, from {topics}."
        )
    return lines


def _mean(name: str, field: str, wide: bool = False) -> Figure[StrategyLine]:
    return Figure(name, lambda line: _short(line.figures[field].mean), wide=wide)


_LATENCIES: tuple[Figure[StrategyLine], ...] = (
    _mean("mean", "latency_mean_s"),
    _mean("P50", "latency_p50_s"),
    _mean("P90", "latency_p90_s"),
    _mean("P99", "latency_p99_s"),
    _mean("TTFT P50", "ttft_p50_s", wide=True),
    _mean("TTFT P99", "ttft_p99_s"),
    _mean("TPOT", "tpot_mean_s"),
)
_MACHINE: tuple[Figure[StrategyLine], ...] = (
    Figure("capacity/s", lambda line: _short(line.capacity_per_s.mean)),
    _mean("tokens/s", "throughput_tokens_s", wide=True),
    Figure("straggler", lambda line: f"{line.figures['straggler_factor'].mean:.3f}"),
    Figure("queue full", lambda line: f"{line.full_straggler_factor.mean:.3f}"),
    Figure("time / even", lambda line: f"{line.figures['imbalance'].mean:.3f}"),
    Figure("waiting", lambda line: f"{line.figures['queue_depth_mean'].mean:.1f}"),
    Figure("passed over", lambda line: f"{line.figures['passed_over_max'].mean:.0f}", wide=True),
)
_DROPPED: Figure[StrategyLine] = Figure("dropped", lambda line: f"{line.figures['drop_rate'].mean:.1%}")


def _gain(name: str, width: int) -> Figure[StrategyLine]:
    return Figure(_GAIN_NAMES[name], lambda line: _interval(_part(line.gains[name], "as_is"), width))


def _part(gain: Gain | None, name: str) -> Spread | None:
    return None if gain is None else getattr(gain, name)


def _is_explained(results: TraceResults) -> bool:
    return any(gain and gain.same_lengths for line in results.lines for gain in line.gains.values())


def _print_explained(results: TraceResults, console: Console) -> None:
    """Each gain as it is, with requests equally long, and with topics alike too."""
    rows = [
        (f"{line.strategy}, {_GAIN_NAMES[name]}", line.gains[name])
        for line in results.lines[1:]
        for name in ("straggler_factor", "capacity", "latency_mean_s", "latency_p99_s")
    ]
    label: Figure[tuple[str, Gain | None]] = Figure("gain", lambda row: row[0])
    width = console.width
    figures: list[Figure[tuple[str, Gain | None]]] = [
        Figure("as is", lambda row: _interval(_part(row[1], "as_is"), width)),
        Figure("all equally long", lambda row: _interval(_part(row[1], "same_lengths"), width)),
        Figure("and topics alike", lambda row: _interval(_part(row[1], "same_topics"), width)),
    ]
    title = (
        "What is due to the experts: the same gains with requests of one length, and with topics alike too"
    )
    console.print(figures_table(title, label, figures, rows, width))


def _interval(gain: Spread | None, width: int) -> str:
    """In percent; with its interval where the terminal has room."""
    if gain is None:
        return "-"
    mean = f"{100 * gain.mean:+.1f}"
    if gain.low is None or gain.high is None or width < _INTERVAL_ROOM:
        return mean
    return f"{mean} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"


def _short(value: float) -> str:
    """About three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
