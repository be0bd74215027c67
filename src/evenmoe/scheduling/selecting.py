"""`select`: which of the waiting requests run together. The registry of strategies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike

from evenmoe.errors import ConfigError, ShapeError, check_choice
from evenmoe.scheduling import greedy, ordered, partitions, peaks
from evenmoe.scheduling.picking import Limits, Picking
from evenmoe.scheduling.window import Floats, Ints, Window

Strategy = Literal[
    "fcfs",
    "random",
    "greedy_variance",
    "greedy_dot_product",
    "norm_minimizing",
    "best_fit",
    "differencing",
    "karmarkar_karp",
    "lpt",
    "lpt_balanced",
    "power_of_d",
    "power_of_d_dot",
    "peak_excess",
    "auto",
]
STRATEGIES: Final[tuple[Strategy, ...]] = get_args(Strategy)
OURS: Final[tuple[Strategy, ...]] = ("peak_excess", "auto")
RANDOM: Final[tuple[Strategy, ...]] = ("random", "power_of_d", "power_of_d_dot")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of single strategies.

    num_choices: power_of_d, power_of_d_dot: candidates sampled at each step, d.
    exchanges: peak_excess, auto: exchanges after the batch is full, at most.
    min_depth: auto: fcfs while fewer than this many batches wait.
    min_gain: auto: fcfs unless the straggler factor falls by this share.
    max_delay: auto: a request may leave later than in order of arrival by this share of the batches that waited when
        it came, rounded down, less one. `BatchScheduler` sees to it; `select` knows one decision only.
    Raises ConfigError.
    """

    num_choices: int = 8
    exchanges: int = 3
    min_depth: float = 2.0
    min_gain: float = 0.02
    max_delay: float = 0.1

    def __post_init__(self) -> None:
        for field, least in (("num_choices", 1), ("exchanges", 0)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(field, value, f"an integer of at least {least}")
        if not _is_number(self.min_depth) or not self.min_depth >= 0:
            raise ConfigError("min_depth", self.min_depth, "a number of at least 0")
        if not _is_number(self.max_delay) or not 0 <= self.max_delay < float("inf"):
            raise ConfigError("max_delay", self.max_delay, "a finite number of at least 0")
        if not _is_number(self.min_gain) or not 0 <= self.min_gain < 1:
            raise ConfigError("min_gain", self.min_gain, "a number from 0 to under 1")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


DEFAULT_OPTIONS: Final = Options()


def select(
    name: str,
    loads_WX: ArrayLike | Window,
    batch_size: int = 8,
    *,
    rng: np.random.Generator | None = None,
    num_layers: int | None = None,
    first: Sequence[int] = (0,),
    tokens_W: ArrayLike | None = None,
    token_budget: int | None = None,
    base_X: ArrayLike | None = None,
    options: Options = DEFAULT_OPTIONS,
) -> Ints:
    """Which requests of the window run together: indices, at most `batch_size`, the oldest (0) always the first.

    name: one of STRATEGIES.
    loads_WX: [W, X] predicted load of each waiting request, the oldest first; or a `Window` of them, which keeps
        products between requests from one decision to the next.
    rng: for random, power_of_d and power_of_d_dot, which need it. The same generator state gives the same batch.
    num_layers: L where a vector is L layers one after the other; peak_excess and auto sum the peak over layers.
    first: requests that go before all others, in place of the oldest.
    tokens_W, token_budget: [W] tokens of each request, and the most a batch may have.
    base_X: [X] load of the requests that already run beside the batch, as in continuous batching; None: there are none.
        It counts as part of the batch's load. An order or a partition of the window has no use for it: fcfs, random,
        lpt, lpt_balanced, karmarkar_karp, differencing.
    Ties go to the older request. A window that fits into the batch, tokens included, is taken whole, by age.
    Raises ConfigError, ShapeError.
    """
    check_choice("strategy", name, STRATEGIES)
    if isinstance(loads_WX, Window):
        if num_layers not in (None, loads_WX.num_layers):
            raise ConfigError("num_layers", num_layers, f"the window's {loads_WX.num_layers}, or left out")
        window = loads_WX
    else:
        window = Window.of(loads_WX, num_layers=1 if num_layers is None else num_layers)
    limits = Limits(
        batch_size=batch_size,
        first=first,
        tokens_W=None if tokens_W is None else np.asarray(tokens_W, dtype=np.int64),
        token_budget=token_budget,
    )
    limits.check(len(window))
    if name in RANDOM and rng is None:
        raise ConfigError("rng", None, f"a numpy generator: {name} draws")
    base = None if base_X is None else _checked_base(base_X, window)
    if not len(window):
        return np.zeros(0, dtype=np.int64)
    picking = Picking(len(window), limits, base)
    if limits.hold_all(len(window)):
        ordered.fcfs(window, picking)
    else:
        _RULES[name](window, picking, rng or _NO_DRAWS, options)
    return np.array(picking.picked, dtype=np.int64)


def _checked_base(base_X: ArrayLike, window: Window) -> Floats:
    base = np.asarray(base_X, dtype=np.float64)
    if base.shape != (window.length,):
        raise ShapeError(
            f"base_X has shape {base.shape}; a load vector of the window has {window.length} entries"
        )
    if not (np.isfinite(base).all() and base.min() >= 0):
        raise ConfigError("base_X", base_X, "finite numbers of at least 0")
    return base


_NO_DRAWS = np.random.default_rng(0)
"""Passed to strategies that draw nothing."""

_Rule: TypeAlias = Callable[[Window, Picking, np.random.Generator, Options], None]

_RULES: Final[dict[str, _Rule]] = {
    "fcfs": lambda window, picking, rng, options: ordered.fcfs(window, picking),
    "random": lambda window, picking, rng, options: ordered.random(window, picking, rng),
    "greedy_variance": lambda window, picking, rng, options: greedy.greedy_variance(window, picking),
    "greedy_dot_product": lambda window, picking, rng, options: greedy.greedy_dot_product(window, picking),
    "norm_minimizing": lambda window, picking, rng, options: greedy.norm_minimizing(window, picking),
    # the squared distance of l + v to the uniform vector of the same total is X * Var(l + v)
    "best_fit": lambda window, picking, rng, options: greedy.greedy_variance(window, picking),
    "differencing": lambda window, picking, rng, options: partitions.differencing(window, picking),
    "karmarkar_karp": lambda window, picking, rng, options: partitions.karmarkar_karp(window, picking),
    "lpt": lambda window, picking, rng, options: ordered.lpt(window, picking),
    "lpt_balanced": lambda window, picking, rng, options: partitions.lpt_balanced(window, picking),
    "power_of_d": lambda window, picking, rng, options: greedy.power_of_d(
        window, picking, rng, options.num_choices
    ),
    "power_of_d_dot": lambda window, picking, rng, options: greedy.power_of_d(
        window, picking, rng, options.num_choices, by_dot_product=True
    ),
    "peak_excess": lambda window, picking, rng, options: peaks.peak_excess(
        window, picking, options.exchanges
    ),
    "auto": lambda window, picking, rng, options: peaks.auto(
        window,
        picking,
        options.exchanges,
        min_depth=options.min_depth,
        min_gain=options.min_gain,
    ),
}
