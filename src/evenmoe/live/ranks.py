"""A live study on several processes of this machine, each with its share of the experts: here evenness costs time.

Every process has the whole batch and runs its experts' part of it (`form="shared"`). The first leads: it has the queue,
and tells the others which prompts to run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from evenmoe.live.clock import WallClock
from evenmoe.live.engine import Engine, Loads, ModelEngine, pad_token_of
from evenmoe.live.prompts import Ids, Prompts
from evenmoe.live.study import LiveResults, LiveSettings, OnProgress, run_live
from evenmoe.live.traffic import Predictor
from evenmoe.models.attach import attach
from evenmoe.models.loading import load, load_tokenizer
from evenmoe.parallel import Group, launch, shard
from evenmoe.placement import Placement
from evenmoe.routing import Baseline

TIMEOUT_S = 60.0
"""How long a process waits for the others before it takes one of them for dead."""
_BEAT_S = 15.0
"""How often the leader says that it is there while there is nothing to run."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RanksJob:
    """What every process is given. path: of the checkpoint. The rest: see `run_live`."""

    path: str
    dtype: str
    quantization: Literal["nf4"] | None
    settings: LiveSettings
    prompts: Prompts
    predictor: Predictor
    placement: Placement | None


def run_live_ranks(
    job: RanksJob, num_ranks: int, *, threads: int = 1, on_progress: OnProgress | None = None
) -> LiveResults:
    """Run the study on `num_ranks` processes in real time. Nothing is left running, however it ends.

    Raises ConfigError, ShapeError, RankError, and KeyboardInterrupt, of which no result is left.
    """
    results = launch(
        serve_rank,
        num_ranks=num_ranks,
        args=(job,),
        threads=threads,
        timeout_s=TIMEOUT_S,
        on_progress=on_progress,
    )
    found: LiveResults = results[0]
    return found


def serve_rank(group: Group, progress: Callable[[str, int, int], None], job: RanksJob) -> LiveResults | None:
    """One process: the first leads the study and returns its results, the others run what it runs."""
    model, tokenizer = (
        load(job.path, dtype=job.dtype, quantization=job.quantization),
        load_tokenizer(job.path),
    )
    experts = shard(model, group, placement=job.placement, form="shared")
    with attach(model, Baseline(), parallel=experts) as attached:
        engine = ModelEngine(model, attached, pad_token_of(model, tokenizer))
        if group.rank > 0:
            _follow(engine, group)
            return None
        results = run_live(
            job.settings,
            LeadingEngine(engine, group),
            job.prompts,
            job.predictor,
            experts.placement,
            waits_for_busiest=True,
            new_clock=lambda: LeadingClock(group),
            on_progress=progress,
        )
        group.all_gather_objects(None)
        return results


class LeadingEngine:
    """Runs a batch on all processes."""

    def __init__(self, engine: Engine, group: Group) -> None:
        self._engine, self._group = engine, group

    def run(self, ids_B: Sequence[Ids]) -> Loads:
        """Tell the others the prompts, and run them with them: [B, L, E] pairs."""
        self._group.all_gather_objects(list(ids_B))
        return self._engine.run(ids_B)


class LeadingClock(WallClock):
    """The wall clock of the first process, whose long waits do not look like its death to the others."""

    def __init__(self, group: Group) -> None:
        super().__init__()
        self._group = group

    def sleep_until(self, at_s: float) -> None:
        """Sleep, and say now and then that there is nothing to run."""
        while at_s - self.now_s() > _BEAT_S:
            super().sleep_until(self.now_s() + _BEAT_S)
            self._group.all_gather_objects([])
        super().sleep_until(at_s)


def _follow(engine: Engine, group: Group) -> None:
    """Run every batch that the first process runs, until it has no more."""
    while (ids_B := group.all_gather_objects(None)[0]) is not None:
        if ids_B:
            engine.run(ids_B)
