"""Advice: one plain sentence on whether expert-aware scheduling pays, from results with intervals. Pure functions.

What even batches gain is capacity: more requests per second through the same machine. Latency gains it too, many times
over where the machine is nearly full, but also depends on who is taken first. So capacity says whether it pays, with
all requests equally long where that was run, and latency whether it does harm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from evenmoe.errors import ConfigError
from evenmoe.simulation.studies.intervals import Spread

Verdict = Literal["on", "off", "undecided"]
Reason = Literal[
    "one seed",
    "relieves",
    "overload",
    "pays",
    "shallow",
    "capacity",
    "drops less",
    "unclear",
    "harmful",
    "lengths",
    "noise",
]

MIN_CAPACITY = 0.02
"""A gain in capacity under this share is not worth a moving part, however certain it is."""
MIN_LATENCY = 0.01
"""A change of latency, or of the drop rate, under this share is none."""
_UNCHANGED, _ROUNDS_TO_NOTHING = "unchanged", 0.0005
UNCLEAR = 0.05
"""A P99 latency that is worse by this share in the mean is not passed over, even where that is not certain."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A gain over fcfs as a share of fcfs's value, paired by seed, positive where better.

    same_lengths: the same where all requests are equally long, so that only their experts differ; None: not known.
    """

    total: Spread
    same_lengths: Spread | None = None

    @property
    def is_gain(self) -> bool:
        """Whether the 95% interval is above 0 and the mean at least MIN_LATENCY."""
        return _is_above(self.total, MIN_LATENCY)

    @property
    def is_loss(self) -> bool:
        """Whether the 95% interval is below 0 and the mean at most -MIN_LATENCY."""
        return self.total.high is not None and self.total.high < 0 and self.total.mean <= -MIN_LATENCY

    @property
    def by_experts(self) -> Spread:
        """The gain with equally long requests, where it is known."""
        return self.total if self.same_lengths is None else self.same_lengths

    def words(self) -> str:
        """As in: 12.0% lower (95% interval 9.1% to 14.9%)."""
        return words(self.total)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One strategy beside fcfs.

    mean, p99: of latency. capacity: of the requests per second that can be served at most. drop: of the drop rate; None
    where no routing policy drops. overloaded: whether more comes than the strategy can serve.
    straggler_factor: with the queue always full, as the capacity is.
    """

    strategy: str
    mean: Change
    p99: Change
    capacity: Change
    straggler_factor: float
    overloaded: bool
    drop: Change | None = None

    @property
    def pays(self) -> bool:
        """Whether clearly more can be served, of these requests, and because of their experts."""
        return self.capacity.is_gain and self.is_due_to_experts

    @property
    def is_due_to_experts(self) -> bool:
        """Whether clearly more can be served where only the experts of requests differ, as far as that is known."""
        return _is_above(self.capacity.by_experts, MIN_CAPACITY)

    @property
    def is_harmless(self) -> bool:
        """Whether the tail is neither clearly nor by much worse."""
        return not self.p99.is_loss and self.p99.total.mean > -UNCLEAR


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """fcfs itself. waiting: mean requests in the queue at this rate. batch_size: how many a batch takes."""

    straggler_factor: float
    overloaded: bool
    waiting: float
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The verdict, the rule that gave it, the strategy that it is about, and the sentence for people."""

    verdict: Verdict
    reason: Reason
    strategy: str
    sentence: str


def advise(fcfs: Baseline, outcomes: Sequence[Outcome]) -> Advice:
    """The first rule that applies; docs/simulate_trace.md lists them.

    Of several strategies to which a rule applies, it speaks of the one whose gain is the most certain, with the highest
    lower end of the interval. Raises ConfigError where there is no strategy beside fcfs.
    """
    if not outcomes:
        raise ConfigError("strategies", [], "at least one beside fcfs")
    if any(outcome.p99.total.low is None for outcome in outcomes):
        return _one_seed(outcomes)
    paying = [outcome for outcome in outcomes if outcome.pays]
    if fcfs.overloaded:
        return _overload(fcfs, paying, outcomes)
    if harmless := [outcome for outcome in paying if outcome.is_harmless]:
        return _pays(fcfs, harmless)
    return _drops_less(outcomes) or _does_not_pay(fcfs, paying, outcomes)


def words(gain: Spread, better: str = "lower", worse: str = "higher") -> str:
    """As in: 12.0% lower (95% interval 9.1% to 14.9%); an end on the other side has a minus sign."""
    sign = 1 if gain.mean >= 0 else -1
    low, high = sorted((sign * (gain.low or 0.0), sign * (gain.high or 0.0)))
    if max(abs(low), abs(high)) < _ROUNDS_TO_NOTHING:
        return _UNCHANGED
    way = better if sign > 0 else worse
    return f"{_percent(abs(gain.mean))} {way} (95% interval {_percent(low)} to {_percent(high)})"


def _one_seed(outcomes: Sequence[Outcome]) -> Advice:
    best = max(outcomes, key=lambda outcome: outcome.p99.total.mean)
    mean = best.p99.total.mean
    sentence = (
        f"Not decided: one seed does not show how far results scatter ({best.strategy}'s P99 latency was "
        f"{_percent(abs(mean))} {'lower' if mean >= 0 else 'higher'}); give several --seeds."
    )
    return Advice(verdict="undecided", reason="one seed", strategy=best.strategy, sentence=sentence)


def _overload(fcfs: Baseline, paying: Sequence[Outcome], outcomes: Sequence[Outcome]) -> Advice:
    """Where requests come faster than fcfs serves them, latency grows with the run and says nothing."""
    if keeping_up := [outcome for outcome in paying if not outcome.overloaded]:
        best = _best(keeping_up, _capacity)
        return _on(
            "relieves", best, f"it keeps up where fcfs does not; {_served(best)}, {_factors(fcfs, best)}."
        )
    if paying:
        best = _best(paying, _capacity)
        rest = f"{_served(best)}, {_factors(fcfs, best)}; but requests come faster still, and latency keeps growing."
        return _on("overload", best, rest)
    best = _best(outcomes, _capacity)
    rest = f"requests come faster than they can be served, and {best.strategy} helps little: {_served(best)}."
    return _off("overload", best, rest)


def _pays(fcfs: Baseline, harmless: Sequence[Outcome]) -> Advice:
    if quicker := [outcome for outcome in harmless if outcome.mean.is_gain or outcome.p99.is_gain]:
        best = _best(quicker, _capacity)
        rest = (
            f"{_served(best)}, {_factors(fcfs, best)}; at this rate mean latency is {best.mean.words()}, P99 is "
            f"{best.p99.words()}."
        )
        return _on("pays", best, rest)
    best = _best(harmless, _capacity)
    tail = f"P99 latency is {best.p99.words()}"
    if fcfs.waiting < fcfs.batch_size:
        rest = (
            f"{fcfs.waiting:.1f} requests wait on average and a batch takes {fcfs.batch_size}, so there is little to "
            f"choose from at this rate; {tail}. Where more wait {_served(best)}, with {best.strategy}."
        )
        return _off("shallow", best, rest)
    rest = f"{_served(best)}, {_factors(fcfs, best)}; at this rate little changes, {tail}."
    return _on("capacity", best, rest)


def _drops_less(outcomes: Sequence[Outcome]) -> Advice | None:
    found = [
        (outcome, outcome.drop)
        for outcome in outcomes
        if outcome.drop is not None and outcome.drop.is_gain and outcome.is_harmless
    ]
    if not found:
        return None
    best, drop = max(found, key=lambda pair: _least(pair[1].total))
    rest = (
        f"not for speed, P99 latency is {best.p99.words()}, but the routing policy drops less: its drop rate is "
        f"{drop.words()}."
    )
    return _on("drops less", best, rest)


def _does_not_pay(fcfs: Baseline, paying: Sequence[Outcome], outcomes: Sequence[Outcome]) -> Advice:
    if unclear := [outcome for outcome in paying if not outcome.p99.is_loss]:
        best = _best(unclear, lambda outcome: outcome.p99.total)
        sentence = (
            f"Not decided: with {best.strategy} {_served(best)}, but P99 latency is {best.p99.words()}; give more "
            "--seeds or --requests."
        )
        return Advice(verdict="undecided", reason="unclear", strategy=best.strategy, sentence=sentence)
    if paying:
        best = _best(paying, lambda outcome: outcome.p99.total)
        rest = (
            f"at this rate it does harm, {best.strategy}'s P99 latency is {best.p99.words()}, though {_served(best)} "
            f"and the mean is {best.mean.words()}."
        )
        return _off("harmful", best, rest)
    best = _best(outcomes, _capacity)
    gain = best.capacity.by_experts
    if best.is_due_to_experts:
        rest = (
            f"with these lengths almost nothing is gained; {best.strategy} can serve "
            f"{words(best.capacity.total, 'more requests', 'fewer requests')}, though {_percent(gain.mean)} more were "
            "they of one length."
        )
        return _off("lengths", best, rest)
    is_within = _least(gain) <= 0 <= (gain.high or 0.0)
    small = "within noise" if is_within else f"under the {MIN_CAPACITY:.0%} that is worth it"
    rest = f"almost nothing is gained; with {best.strategy} {_served(best)}, {small}, {_factors(fcfs, best)}."
    return _off("noise", best, rest)


def _on(reason: Reason, best: Outcome, rest: str) -> Advice:
    sentence = f"Turn it on with {best.strategy}: {rest}"
    return Advice(verdict="on", reason=reason, strategy=best.strategy, sentence=sentence)


def _off(reason: Reason, best: Outcome, rest: str) -> Advice:
    return Advice(verdict="off", reason=reason, strategy=best.strategy, sentence=f"Leave it off: {rest}")


def _best(outcomes: Sequence[Outcome], gain: Callable[[Outcome], Spread]) -> Outcome:
    return max(outcomes, key=lambda outcome: _least(gain(outcome)))


def _capacity(outcome: Outcome) -> Spread:
    return outcome.capacity.by_experts


def _served(best: Outcome) -> str:
    """How much more can be served, and whether that is because of the experts."""
    is_known = best.capacity.same_lengths is not None
    lengths = " of one length" if is_known else ""
    gain = words(best.capacity.by_experts, f"more requests{lengths}", f"fewer requests{lengths}")
    if gain == _UNCHANGED:
        return "it can serve no more requests"
    return f"it can serve {gain}" + ("" if is_known else ", be it by their experts or by their lengths")


def _factors(fcfs: Baseline, best: Outcome) -> str:
    return f"straggler factor {best.straggler_factor:.2f} instead of {fcfs.straggler_factor:.2f} with a full queue"


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _least(gain: Spread) -> float:
    """The lower end of the interval, as far as there is one."""
    return gain.mean if gain.low is None else gain.low


def _is_above(gain: Spread, least: float) -> bool:
    return gain.low is not None and gain.low > 0 and gain.mean >= least
