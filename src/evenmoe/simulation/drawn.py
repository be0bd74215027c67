"""DrawnWorkload: the first requests of a workload, drawn once and served to several runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from evenmoe.errors import ConfigError
from evenmoe.simulation.request import Request, Workload


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnWorkload:
    """A workload whose requests of one seed are kept; `of` makes one."""

    topics: tuple[str, ...]
    num_layers: int
    num_experts: int
    top_k: float
    seed: int
    kept: Sequence[Request]

    @classmethod
    def of(cls, workload: Workload, seed: int, num_requests: int) -> DrawnWorkload:
        """The first `num_requests` of the workload, or all that there are."""
        return cls(
            topics=workload.topics,
            num_layers=workload.num_layers,
            num_experts=workload.num_experts,
            top_k=workload.top_k,
            seed=seed,
            kept=tuple(islice(workload.requests(seed), num_requests)),
        )

    def requests(self, seed: int) -> Iterator[Request]:
        """The requests that were drawn. Raises ConfigError for another seed than theirs."""
        if seed != self.seed:
            raise ConfigError("seed", seed, f"{self.seed}, of which the requests were drawn")
        return iter(self.kept)
