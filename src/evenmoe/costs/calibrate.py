"""calibrate: measure this machine and fit a Machine to it. torch is imported by what runs in the ranks.

Shape letters: E experts, D ranks.
"""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evenmoe.costs.machine import Machine
from evenmoe.costs.parts import (
    MS_PER_S,
    ExpertCurve,
    GateCost,
    HeldOut,
    HeldOutPoint,
    PolicyCost,
    TransferCost,
    line_through,
)
from evenmoe.costs.plan import CalibrationConfig
from evenmoe.costs.predict import pairs_exchanged
from evenmoe.costs.rounds import Clocks
from evenmoe.costs.shape import LayerShape
from evenmoe.version import __version__

if TYPE_CHECKING:
    from evenmoe.costs.measure import ShapeTimes

_FASTEST = 1e15
"""Bytes per second of what takes no time that can be measured."""


def calibrate(
    config: CalibrationConfig,
    on_progress: Callable[[str, int, int], None] = lambda description, done, total: None,
    clocks: Clocks | None = None,
) -> Machine:
    """Measure the machine at hand and return its costs.

    With more than one rank, each in a process of its own, all measure at the same time, so that they contend for memory
    as in a run, and the link is what their group exchanges through. One rank measures in this process; its machine has
    no link and predicts one device. on_progress(description, shapes done, shapes). clocks: for one rank alone; None
    takes this machine's.
    Raises RankError if a rank fails; ConfigError for what cannot be measured.
    """
    from evenmoe.costs.measure import measure
    from evenmoe.parallel import Group, launch

    if config.num_ranks > 1:
        times_D = launch(
            measure,
            args=(config,),
            num_ranks=config.num_ranks,
            threads=config.threads,
            on_progress=on_progress,
        )
    else:
        import torch

        threads = torch.get_num_threads()
        try:
            times_D = [measure(Group.alone(), on_progress, config, clocks)]
        finally:
            torch.set_num_threads(threads)
    return fit_machine(config, times_D)


def fit_machine(config: CalibrationConfig, times_D: Sequence[Sequence[ShapeTimes]]) -> Machine:
    """Return the machine that fits the times of every rank [D] and shape.

    Times are means over the ranks, but those of an exchange are of its slowest rank.
    """
    by_shape = list(zip(config.shapes, zip(*times_D, strict=True), strict=True))
    call_ms = _call_ms(by_shape)
    curves = {shape.name: _curves(config, shape, times, call_ms) for shape, times in by_shape}
    link, extra_ms = _link(config, by_shape)
    return Machine(
        name=config.name or _machine_name(),
        source="measured",
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        notes=(f"{os.cpu_count()} CPUs, {platform.machine()}, {platform.system()}",),
        versions=_versions(),
        ranks=config.num_ranks,
        threads=config.threads,
        expert_call_ms=call_ms,
        experts=_distinct([curve for found in curves.values() for curve in found]),
        gates=_distinct([_gate(config, shape, times) for shape, times in by_shape]),
        policies=_policies(by_shape),
        pack=_copy(config, by_shape, "pack"),
        unpack=_copy(config, by_shape, "unpack"),
        link=link,
        dispatch_exchanges_ms=extra_ms,
        barrier_ms=_mean(times.barrier_ms for _, ranks in by_shape for times in ranks),
        heldout=HeldOut.of(
            tuple(_heldout_points(by_shape, {name: found[0] for name, found in curves.items()}, call_ms))
        ),
    )


_Measured = list[tuple[LayerShape, tuple["ShapeTimes", ...]]]


def _call_ms(by_shape: _Measured) -> float:
    """The fixed cost of a call: what is left of the times of 1, 4, ... experts with a token each at no expert."""
    found = []
    for _, ranks in by_shape:
        touched = sorted(ranks[0].single)
        if len(touched) > 1:
            found.append(line_through(touched, [_mean(t.single[m] for t in ranks) for m in touched])[0])
    return float(np.median(found)) if found else 0.0


def _curves(
    config: CalibrationConfig, shape: LayerShape, ranks: Sequence[ShapeTimes], call_ms: float
) -> list[ExpertCurve]:
    """The routed experts' curve, then the shared experts' where there are some."""
    per_expert = [
        (float(n), max(_mean(t.knots[n, m] for t in ranks) - call_ms, 0.0) / m) for n, m in ranks[0].knots
    ]
    curves = [_curve(config, shape.hidden, shape.intermediate, per_expert)]
    if ranks[0].shared:
        shared = [(float(n), _mean(t.shared[n] for t in ranks)) for n in ranks[0].shared]
        curves.append(_curve(config, shape.hidden, shape.shared_intermediate, shared))
    return curves


def _curve(
    config: CalibrationConfig, hidden: int, intermediate: int, points: Sequence[tuple[float, float]]
) -> ExpertCurve:
    """A curve through the points; a time below that of fewer tokens is noise, and is raised to it."""
    tokens = [n for n, _ in points]
    times_ms = np.maximum.accumulate(np.maximum([time_ms for _, time_ms in points], 1e-6))
    fixed_ms, per_token_ms, error = line_through(tokens, times_ms)
    return ExpertCurve(
        hidden=hidden,
        intermediate=intermediate,
        dtype=config.dtype,
        implementation=config.implementation,
        knots=tuple(zip(tokens, (float(t) for t in times_ms), strict=True)),
        fixed_ms=fixed_ms,
        per_token_ms=per_token_ms,
        fit_error=error,
    )


def _gate(config: CalibrationConfig, shape: LayerShape, ranks: Sequence[ShapeTimes]) -> GateCost:
    tokens, times_ms = _points(ranks, "gate")
    fixed_ms, per_token_ms, _ = line_through(tokens, times_ms)
    return GateCost(
        hidden=shape.hidden,
        num_experts=shape.num_experts,
        top_k=shape.top_k,
        dtype=config.dtype,
        fixed_ms=fixed_ms,
        per_token_ms=per_token_ms,
    )


def _policies(by_shape: _Measured) -> dict[str, PolicyCost]:
    found = {}
    for name in {name: None for _, ranks in by_shape for name, _, _ in ranks[0].phases}:
        pairs, times_ms = [], []
        for shape, ranks in by_shape:
            tokens, of_shape = _points(ranks, "policy", name)
            pairs += [n * shape.top_k for n in tokens]
            times_ms += of_shape
        fixed_ms, per_pair_ms, _ = line_through(pairs, times_ms)
        found[name] = PolicyCost(fixed_ms=fixed_ms, per_pair_ms=per_pair_ms)
    return found


def _copy(config: CalibrationConfig, by_shape: _Measured, phase: str) -> TransferCost:
    """The cost of packing or unpacking by the bytes of a rank's own pairs."""
    moved, times_ms = [], []
    for shape, ranks in by_shape:
        for times in ranks:
            for (name, tokens), pairs_E in times.pairs.items():
                moved.append(sum(pairs_E) * shape.pair_bytes(config.dtype))
                times_ms.append(times.phases[name, tokens, phase])
    return _transfer(moved, times_ms)


def _link(config: CalibrationConfig, by_shape: _Measured) -> tuple[TransferCost | None, float]:
    """The cost of combine, one exchange of rows, and what dispatch takes beyond that; None, 0 for one rank."""
    if config.num_ranks == 1:
        return None, 0.0
    moved, combine_ms, dispatch_ms = [], [], []
    for shape, ranks in by_shape:
        holds_DE = shape.contiguous_holds(config.num_ranks)
        for name, tokens in ranks[0].pairs:
            load_DE = np.asarray([times.pairs[name, tokens] for times in ranks], dtype=np.float64)
            most = float(pairs_exchanged(load_DE, holds_DE).max())
            moved.append(most * shape.pair_bytes(config.dtype))
            combine_ms.append(max(times.phases[name, tokens, "combine"] for times in ranks))
            dispatch_ms.append(max(times.phases[name, tokens, "dispatch"] for times in ranks))
    link = _transfer(moved, combine_ms)
    extra_ms = float(np.median(np.asarray(dispatch_ms) - link.time_ms(moved)))
    return link, max(extra_ms, 0.0)


def _heldout_points(
    by_shape: _Measured, curves: dict[str, ExpertCurve], call_ms: float
) -> list[HeldOutPoint]:
    return [
        HeldOutPoint(
            shape=shape.name,
            tokens_E=vector,
            measured_ms=time_ms,
            predicted_ms=call_ms + float(curves[shape.name].expert_ms(vector).sum()),
        )
        for shape, ranks in by_shape
        for times in ranks
        for vector, time_ms in times.heldout
    ]


def _points(
    ranks: Sequence[ShapeTimes], phase: str, policy: str | None = None
) -> tuple[list[int], list[float]]:
    """Tokens and mean times over the ranks of a phase, of one policy or of all."""
    keys = [key for key in ranks[0].phases if key[2] == phase and policy in (None, key[0])]
    return [key[1] for key in keys], [_mean(times.phases[key] for times in ranks) for key in keys]


def _transfer(moved: Sequence[float], times_ms: Sequence[float]) -> TransferCost:
    fixed_ms, ms_per_byte, _ = line_through(moved, times_ms, least_slope=MS_PER_S / _FASTEST)
    return TransferCost(fixed_ms=fixed_ms, bytes_per_s=MS_PER_S / ms_per_byte)


def _distinct(parts: list) -> tuple:  # type: ignore[type-arg]
    """The parts, of those of one size and dtype the first."""
    sizes = {"hidden", "intermediate", "num_experts", "top_k", "dtype"}
    return tuple({str(part.model_dump(include=sizes)): part for part in reversed(parts)}.values())[::-1]


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _machine_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "transformers", "numpy")}
    return {"evenmoe": __version__, "python": platform.python_version()} | packages
