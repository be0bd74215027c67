"""What a sweep says in one sentence, taken from its rows."""

from __future__ import annotations

from evenmoe.evaluation.results import Results, Row

LOSS_POINTS = 0.5


def fastest_within(results: Results, loss_points: float = LOSS_POINTS) -> Row | None:
    """The row of lowest straggler factor that loses at most `loss_points` of accuracy; None if none is below the
    baseline's factor."""
    base = results.rows[0]
    good = [
        row
        for row in results.rows[1:]
        if 100 * row.accuracy_change >= -loss_points and row.straggler_factor < base.straggler_factor
    ]
    return min(good, key=lambda row: (row.straggler_factor, -row.next_token_accuracy), default=None)


def sentence(results: Results) -> str:
    """How uneven the model is and the best row of `fastest_within`."""
    base = results.rows[0]
    devices = results.config.get("num_devices", 1)
    text = (
        f"Without a limit the busiest expert carries {base.peak_to_mean_before:.2f} times the mean, and on "
        f"{devices} devices every MoE layer waits for one with {base.straggler_factor:.2f} times the even load. "
    )
    best = fastest_within(results)
    if best is None:
        return text + f"No policy here evens that at a loss of at most {LOSS_POINTS:g} points of accuracy."
    return text + (
        f"{best.label} brings that to {best.straggler_factor:.2f} and changes accuracy by "
        f"{100 * best.accuracy_change:+.2f} points."
    )
