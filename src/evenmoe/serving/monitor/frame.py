"""Frames of `evenmoe top`: a view as lines for a terminal of any width, or as one line for a file.

Shape letters: L layers, D devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap

import numpy as np
from rich.console import Group
from rich.text import Text

from evenmoe.serving.monitor.figures import LoadFigures, SchedulingFigures, ServerFigures
from evenmoe.serving.monitor.heat import Floats, fit_heat
from evenmoe.serving.monitor.watch import View

_COLUMNS = ("straggler", "expert", "dropped")
"""Figures of each layer beside the map."""
_SIDE = sum(len(name) + 2 for name in _COLUMNS)


def frame(view: View, *, width: int, height: int | None = None) -> Group:
    """The whole view in `width` characters; None or `height` lines, where the words alone leave room for a map."""
    head = [line for part in _words(view) for line in part.lines(width)]
    foot = [line for part in _footing(view) for line in part.lines(width)]
    loads = view.shown.loads
    room = len(loads.layers) if loads is not None else 0
    if height is not None:
        room = max(height - len(head) - len(foot) - 3, 3)
    drawn = [Text(), *_map(loads, width, room), Text()] if loads is not None else []
    return Group(*head, *drawn, *foot)


def one_line(view: View) -> str:
    """The view as a line, for output that is no terminal."""
    if view.gone is not None:
        return f"no answer: {view.gone}"
    parts = []
    if view.shown.loads is not None:
        loads = view.shown.loads
        parts.append(f"straggler factor {loads.straggler_factor:.3f}, dropped {100 * loads.drop_rate:.1f} %")
        parts += _throughput(view.shown)
        parts.append(f"of {loads.num_requests} requests told {_age(view)}")
    else:
        parts.append("no loads told yet")
    if view.recent.scheduling is not None:
        parts.append(
            f"{view.recent.scheduling.num_waiting} waiting, {view.recent.scheduling.num_running} running"
        )
    return "; ".join(parts)


@dataclass(frozen=True)
class _Part:
    """Phrases of one kind, which lines are broken between, and within only where one alone is too long."""

    phrases: Sequence[str]
    style: str = ""

    def lines(self, width: int) -> list[Text]:
        lines: list[str] = []
        for phrase in self.phrases:
            if lines and len(lines[-1]) + 3 + len(phrase) <= width:
                lines[-1] += f"   {phrase}"
            else:
                lines += wrap(phrase, max(width, 1))
        return [Text(line, style=self.style, no_wrap=True) for line in lines]


def _words(view: View) -> Iterator[_Part]:
    yield _Part([f"evenmoe top {view.url}"], "bold")
    yield _Part(list(_config(view.since_start)), "dim")
    if view.gone is not None:
        yield _Part(
            [f"The server does not answer any more: {view.gone}.", "This is its last answer."], "bold red"
        )
    elif view.recent.restarted:
        yield _Part(["The server was started anew: its counts began again."], "yellow")
    loads = view.shown.loads
    if loads is None:
        least = view.since_start.least_requests
        told = f"No loads told yet: the server tells them as sums over at least {least} requests."
        yield _Part([told], "yellow")
    else:
        yield _Part(list(_load_words(loads)))
        yield _Part(_throughput(view.shown))
    if view.recent.scheduling is None:
        yield _Part(["The scheduler is the engine's own, which tells evenmoe nothing of its queue."], "dim")
    else:
        yield _Part(list(_scheduling_words(view.recent.scheduling)))


def _config(figures: ServerFigures) -> Iterator[str]:
    config = figures.config
    devices = config.get("devices", "?")
    yield f"{config.get('engine')}, {config.get('policy')} with gamma {config.get('gamma')} on {config.get('phases')}"
    yield f"{devices} device{'' if devices == '1' else 's'}"
    yield f"scheduler {config.get('strategy')}, predictor {config.get('predictor')}"
    yield f"evenmoe {config.get('version')}"


def _load_words(loads: LoadFigures) -> Iterator[str]:
    yield f"straggler factor {_both(loads.straggler_factor, loads.straggler_factor_asked)}"
    yield f"busiest expert {_both(loads.expert_peak_to_mean, loads.expert_peak_to_mean_asked)} × mean"
    yield f"dropped {100 * loads.drop_rate:.2f} %"
    yield f"tokens without expert {100 * loads.tokens_without_expert:.2f} %"


def _both(ran: float, asked: float) -> str:
    """What ran, and what was asked for where that is another."""
    return f"{ran:.2f}" if f"{ran:.2f}" == f"{asked:.2f}" else f"{ran:.2f} ({asked:.2f} as asked)"


def _throughput(figures: ServerFigures) -> list[str]:
    loads, seconds = figures.loads, figures.seconds
    if loads is None or not seconds:
        return []
    per_s = ((loads.num_requests, "requests"), (loads.num_tokens, "tokens"), (loads.num_steps, "steps"))
    return [f"{count / seconds:.1f} {name}/s" for count, name in per_s]


def _scheduling_words(scheduling: SchedulingFigures) -> Iterator[str]:
    yield f"{scheduling.num_waiting} waiting"
    yield f"{scheduling.num_running} running"
    if scheduling.mean_passed_over is not None:
        yield f"passed over {scheduling.mean_passed_over:.2f} times on average"
    if scheduling.mean_scheduling_ms is not None:
        yield f"scheduling {scheduling.mean_scheduling_ms:.2f} ms (99 % within {scheduling.p99_scheduling_ms:.2f})"
    errors = scheduling.prediction_error.items()
    if errors:
        yield "prediction error " + ", ".join(f"{name} {error:.3f}" for name, error in errors)


def _map(loads: LoadFigures, width: int, lines: int) -> Iterator[Text]:
    """The head of the map, and a line for each layer: loads of devices over the even load, and the layer's figures."""
    label = max(len(str(len(loads.layers))) * 2 + 1, len("layer")) + 1
    side = _SIDE if width >= label + _SIDE + min(loads.asked_LD.shape[1], 8) else 0
    room = max(width - label - side, 1)
    names = [str(layer) for layer in range(len(loads.layers))]
    heat = fit_heat(_over(loads.ran_LD, loads.even_L[:, None]), names, columns=room, lines=lines)
    figures_L3 = _figures(loads)
    head = Text("layer".ljust(label) + heat.head(), style="dim", no_wrap=True)
    cells = heat.cell * heat.load_LD.shape[1]
    if side:
        head = Text(head.plain[: label + cells].ljust(label + cells), style="dim", no_wrap=True)
        head.append("".join(name.rjust(len(name) + 2) for name in _COLUMNS))
    yield head
    for index, name in enumerate(heat.names):
        line = Text(name.ljust(label), no_wrap=True)
        line.append_text(heat.line(index))
        if side:
            of_line = figures_L3[index * heat.per_line : (index + 1) * heat.per_line].max(0)
            shapes = (f"{of_line[0]:.2f}", f"{of_line[1]:.2f}", f"{100 * of_line[2]:.1f} %")
            line.append("".join(s.rjust(len(c) + 2) for s, c in zip(shapes, _COLUMNS, strict=True)))
        yield line


def _figures(loads: LoadFigures) -> Floats:
    """[L, 3]: each layer's straggler factor, busiest expert over the mean, drop rate."""
    return np.stack(
        [
            _over(loads.busiest_ran_L, loads.even_L),
            _over(loads.busiest_expert_ran_L, loads.even_expert_ran_L),
            1 - _over(loads.kept_L, loads.pairs_L),
        ],
        axis=1,
    )


def _over(above: Floats, below: Floats) -> Floats:
    """The ratio; 1 where there is nothing."""
    below = np.broadcast_to(below, above.shape)
    return np.divide(above, below, out=np.ones_like(above), where=below > 0)


def _footing(view: View) -> Iterator[_Part]:
    loads = view.shown.loads
    if loads is None:
        return
    seconds = view.shown.seconds
    span = "since the server's start" if seconds is None else f"of {seconds:.1f} s, told {_age(view)}"
    yield _Part(
        [f"Loads are sums over {loads.num_requests} requests, {loads.num_tokens} tokens, {span}."], "dim"
    )
    if loads.asked_LD.shape[1] > 1:
        yield _Part([_CELLS], "dim")
    else:
        yield _Part([_ONE_DEVICE], "dim")


_CELLS = "Cells: a device's load over the even load of all asked pairs; where layers or devices share one, the worst."
_ONE_DEVICE = (
    "The server counts one device, which never waits: routing.num_devices says how many hold the experts."
)


def _age(view: View) -> str:
    if view.told is None:
        return "before this view began"
    return "just now" if view.told_age_s < 1 else f"{view.told_age_s:.0f} s ago"
