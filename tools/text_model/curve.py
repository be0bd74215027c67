"""The training curve as a small SVG picture."""

from collections.abc import Sequence
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 640, 300, 50, 40, 20, 15


def curve_svg(curve: Sequence[dict[str, Any]]) -> str:
    """Training loss (line) and held-out loss (line with dots) against the step."""
    train = [(row["step"], row["loss"]) for row in curve]
    held_out = [(row["step"], row["held_out_loss"]) for row in curve if "held_out_loss" in row]
    last = train[-1][0]
    low, high = min(y for _, y in train + held_out) - 0.2, min(7.0, max(y for _, y in train))

    def place(step: float, loss: float) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / last
        return x, _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - min(loss, high)) / (high - low)

    def line(points: Sequence[tuple[float, float]], colour: str) -> str:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'

    parts = [_axis_labels(low, high, last), line(train, "#7a9cc6"), line(held_out, "#c0392b")]
    parts += [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#c0392b"/>' for x, y in (place(*p) for p in held_out)
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def _axis_labels(low: float, high: float, last: int) -> str:
    parts = []
    for tick in range(int(low) + 1, int(high) + 1):
        y = _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - tick) / (high - low)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>')
    for i in range(5):
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * i / 4
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 22}" text-anchor="middle">{last * i // 4}</text>')
    parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 5}" text-anchor="middle">training step</text>')
    parts.append(
        f'<text x="{_WIDTH - _RIGHT}" y="{_TOP + 12}" text-anchor="end" fill="#7a9cc6">training loss</text>'
    )
    parts.append(
        f'<text x="{_WIDTH - _RIGHT}" y="{_TOP + 28}" text-anchor="end" fill="#c0392b">held-out loss</text>'
    )
    return "".join(parts)
