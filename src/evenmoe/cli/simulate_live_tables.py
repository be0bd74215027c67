"""What `simulate live` prints: what was measured, the simulator's errors, and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenmoe.cli.figures import Figure, figures_table, in_ms

if TYPE_CHECKING:
    from rich.console import Console

    from evenmoe.cli.simulate_live_inputs import Given
    from evenmoe.live.results import LiveResult
    from evenmoe.live.study import LiveResults, LiveSettings

_DRIFT = 0.1
"""How far a run's mean batch time may be from what the warm-up foretold before it is worth a sentence."""

_STRATEGY: Figure[LiveResult] = Figure("strategy", lambda row: row.strategy)
_MEASURED: tuple[Figure[LiveResult], ...] = (
    Figure("P50 ms", lambda row: in_ms(1000 * row.measured.latency_p50_s)),
    Figure("P99 ms", lambda row: in_ms(1000 * row.measured.latency_p99_s)),
    Figure("requests/s", lambda row: f"{row.measured.throughput_requests_s:.1f}"),
    Figure("straggler", lambda row: f"{row.measured.straggler_factor:.3f}"),
    Figure("batch ms", lambda row: in_ms(1000 * row.batch_s)),
    Figure("of requests", lambda row: f"{row.batch_requests:.1f}", wide=True),
    Figure("waiting", lambda row: f"{row.waiting:.1f}"),
    Figure("passed over", lambda row: str(row.measured.passed_over_max), wide=True),
    Figure("cosine", lambda row: f"{row.prediction_cosine:.3f}"),
)


def _error(name: str, metric: str) -> tuple[Figure[LiveResult], Figure[LiveResult]]:
    def text(errors: dict[str, float] | None) -> str:
        return "-" if errors is None else f"{errors[metric]:+.1%}"

    return (
        Figure(name, lambda row: text(row.errors())),
        Figure(f"{name}, own time", lambda row: text(row.refitted_errors()), wide=True),
    )


_ERRORS: tuple[Figure[LiveResult], ...] = (
    *_error("P50", "latency_p50_s"),
    *_error("P99", "latency_p99_s"),
    *_error("requests/s", "throughput_requests_s"),
    *_error("straggler", "straggler_factor"),
)


def print_results(
    results: LiveResults, settings: LiveSettings, title: str, given: Given, console: Console
) -> None:
    """Print it all."""
    share = results.rate_per_s / results.capacity_per_s
    console.print(
        f"{title}: {settings.num_requests} prompts of up to {given.prompt_tokens} tokens in bursts of "
        f"{settings.burst_requests:g} on a topic, {results.rate_per_s:.1f}/s, {share:.0%} of the "
        f"{results.capacity_per_s:.1f}/s that full batches serve.",
        highlight=False,
    )
    if not results.results:
        console.print("Interrupted before the first batch.")
        return
    rows = results.results
    time = "real time" if given.clock == "wall" else "CPU time"
    kind = "virtual devices" if given.ranks is None else "processes"
    measured = f"Measured ({time}), straggler factor on {given.devices} {kind}"
    console.print(figures_table(measured, _STRATEGY, _MEASURED, rows, console.width))
    if any(row.forecast for row in rows):
        title = "Error of the simulator, told the arrivals and what the warm-up showed"
        console.print(figures_table(title, _STRATEGY, _ERRORS, rows, console.width))
    for line in _remarks(results, given):
        console.print(line, highlight=False)


def _on_evenness(results: LiveResults, given: Given) -> str:
    """Whether evenness costs time in this run."""
    if given.ranks is None:
        return (
            "One process runs all experts, so here a batch takes as long however even it is: latency differs by order "
            f"and by the machine's noise. With experts on {given.devices} devices each layer would wait for the "
            "busiest, which is the straggler factor."
        )
    if results.batch_time.per_peak_pair_s == 0:
        return (
            f"The experts are on {given.ranks} processes, and each layer waits for the busiest; in the warm-up that "
            "could not be told from the machine's noise, so the simulator does not count it."
        )
    first = results.results[0]
    share = 1 - 1 / first.measured.imbalance
    return (
        f"The experts are on {given.ranks} processes, and each layer waits for the busiest: by the warm-up's fit "
        f"{share:.1%} of the time of {first.strategy}'s batches."
    )


def _remarks(results: LiveResults, given: Given) -> list[str]:
    """What the tables mean, in sentences; only those that apply."""
    rows = results.results
    lines = [_on_evenness(results, given)]
    fcfs = next((row for row in rows if row.strategy == "fcfs"), None)
    best = min(rows, key=lambda row: row.measured.straggler_factor)
    if fcfs is not None and best is not fcfs:
        before, after = fcfs.measured.straggler_factor, best.measured.straggler_factor
        lines.append(
            f"Straggler factor {before:.3f} under fcfs, {after:.3f} under {best.strategy}: the busiest device has "
            f"{1 - after / before:.1%} less to do."
        )
    if any(abs(row.drift) > _DRIFT for row in rows):
        times = ", ".join(f"{1 + row.drift:.2f} ({row.strategy})" for row in rows)
        own = "'Own time' is the error with each run's own mean batch time." if rows[0].forecast else ""
        lines.append(
            f"The machine was not steady: batches took {times} times as long as the warm-up foretold. {own}".rstrip()
        )
    if results.interrupted:
        lines.append(f"Interrupted: the last row has {rows[-1].measured.finished} finished requests.")
    return lines
