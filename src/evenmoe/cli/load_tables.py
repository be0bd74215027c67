"""What `evenmoe load` prints: a run, and several side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from evenmoe.cli.console import stdout

if TYPE_CHECKING:
    from evenmoe.serving.load import LoadResult
    from evenmoe.serving.load.comparison import Cell, Comparison, Figure
    from evenmoe.serving.load.results import Percentiles
    from evenmoe.serving.monitor import ServerFigures

MOST_MESSAGES = 5


def print_result(result: LoadResult, server: ServerFigures | None) -> None:
    """One run: latencies, what became of the requests, and what the server's own counters say."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "mean", "P50", "P90", "P99", "worst"):
        table.add_column(name, justify="left" if not name else "right")
    rows: dict[str, tuple[Percentiles | None, float, str]] = {
        "latency, s": (result.latency, 1, ".3f"),
        "time to first token, s": (result.ttft, 1, ".3f"),
        "time per output token, ms": (result.tpot, 1000, ".1f"),
        "sent late by, ms": (result.late, 1000, ".1f"),
    }
    for name, (found, unit, shape) in rows.items():
        figures = ("mean", "p50", "p90", "p99", "worst")
        cells = (format(getattr(found, figure) * unit, shape) if found else "-" for figure in figures)
        table.add_row(name, *cells)
    stdout.print(table)
    for line in _lines(result, server):
        stdout.print(line, highlight=False, markup=False, soft_wrap=True)


def _lines(result: LoadResult, server: ServerFigures | None) -> Iterator[str]:
    offered = (
        "all at once" if result.offered_per_s is None else f"{result.offered_per_s:.2f} offered per second"
    )
    finished = result.outcomes.get("finished", 0)
    yield (
        f"{finished} of {result.requests} requests finished in {result.seconds:.1f} s: {offered}, "
        f"{result.finished_per_s:.2f} finished, {result.tokens_per_s:.0f} tokens per second, "
        f"at most {result.most_in_flight} at once."
    )
    strayed = "" if result.strayed is None else f", {result.strayed} given another's answer"
    yield f"{result.lost} lost, {result.doubled} answered twice{strayed}; {result.num_late} sent late."
    for message, count in list(result.errors.items())[:MOST_MESSAGES]:
        yield f"{count} times: {message}"
    if len(result.errors) > MOST_MESSAGES:
        yield f"and {len(result.errors) - MOST_MESSAGES} more messages (--json)"
    if server is not None:
        yield from _server_lines(server)


def _server_lines(server: ServerFigures) -> Iterator[str]:
    loads, scheduling = server.loads, server.scheduling
    if loads is not None and loads.num_steps:
        yield (
            f"Server: straggler factor {loads.straggler_factor:.3f} ({loads.straggler_factor_asked:.3f} asked for), "
            f"{100 * loads.drop_rate:.1f}% dropped, of {loads.num_tokens} tokens in {loads.num_steps} steps."
        )
    if scheduling is not None:
        passed = scheduling.mean_passed_over
        over = "" if passed is None else f", passed over {passed:.2f} times in the mean"
        yield f"Scheduler: {scheduling.num_admitted} requests admitted{over}."
    if server.restarted:
        yield "The server started anew during the run: its figures are since then."


def print_comparison(comparison: Comparison) -> None:
    """A table with a column per group."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    header, *rows = _comparison_rows(comparison)
    for place, name in enumerate(header):
        table.add_column(name, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    stdout.print(table)


def comparison_markdown(comparison: Comparison) -> str:
    """The same as a Markdown table."""
    header, *rows = _comparison_rows(comparison)
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _comparison_rows(comparison: Comparison) -> Iterator[list[str]]:
    from evenmoe.serving.load.comparison import FIGURES

    yield ["mean ± standard error (gain)", *comparison.labels]
    for figure in FIGURES:
        cells: Sequence[Cell | None] = comparison.cells[figure.name]
        if any(cells):
            yield [figure.name, *(_cell(figure, cell) for cell in cells)]


def _cell(figure: Figure, cell: Cell | None) -> str:
    if cell is None:
        return "-"
    text = f"{cell.mean:.{figure.digits}f}" + _error(cell.mean_error, figure.digits)
    if cell.gain is None:
        return text
    if figure.is_absolute:
        return f"{text} ({cell.gain:+.{figure.digits}f}{_error(cell.gain_error, figure.digits)})"
    error = None if cell.gain_error is None else 100 * cell.gain_error
    return f"{text} ({100 * cell.gain:+.1f}{_error(error, 1)}%)"


def _error(error: float | None, digits: int) -> str:
    return "" if error is None else f" ± {error:.{digits}f}"
