"""The training curve as a small SVG picture."""

from collections.abc import Sequence
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 640, 320, 50, 40, 20, 15
_COLOURS = ("#c0392b", "#2e86c1", "#27ae60", "#8e44ad", "#d68910", "#16a085", "#2c3e50")


def curve_svg(curve: Sequence[dict[str, Any]], family_of_kind: dict[str, str]) -> str:
    """Held-out accuracy against the step: a line per family (mean over its kinds), and all of them in black."""
    last = curve[-1]["step"]
    lines = family_lines(curve, family_of_kind)
    parts = [_axes(last)]
    for i, (name, points) in enumerate(lines.items()):
        path = " ".join(f"{_x(step, last):.1f},{_y(value):.1f}" for step, value in points)
        colour, width = ("black", 2.5) if name == "all" else (_COLOURS[i % len(_COLOURS)], 1.5)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
        y = _HEIGHT - _BOTTOM - 10 - 16 * (len(lines) - 1 - i)
        parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{y}" text-anchor="end" fill="{colour}">{name}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def family_lines(
    curve: Sequence[dict[str, Any]], family_of_kind: dict[str, str]
) -> dict[str, list[tuple[int, float]]]:
    """(step, accuracy) of each family, and of `all`, where accuracy was measured."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in curve:
        if "accuracy" not in row:
            continue
        by_family: dict[str, list[float]] = {}
        for kind, value in row["accuracy"].items():
            by_family.setdefault(family_of_kind.get(kind, "all"), []).append(value)
        for family, values in by_family.items():
            lines.setdefault(family, []).append((row["step"], sum(values) / len(values)))
    return lines


def _x(step: float, last: int) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / last


def _y(value: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - value)


def _axes(last: int) -> str:
    parts = []
    for percent in range(0, 101, 20):
        y = _y(percent / 100)
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{percent}%</text>')
    for i in range(5):
        x = _x(last * i / 4, last)
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 22}" text-anchor="middle">{last * i // 4}</text>')
    parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 5}" text-anchor="middle">training step</text>')
    return "".join(parts)
