"""DomainLoads: what a placement is fitted to. Shape letters: L layers, G domains (tags), E experts, S scenarios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError
from evenmoe.loads.expert_loads import ExpertLoads

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class DomainLoads:
    """The load of every expert in each profiled domain; `of` scales each domain to a mean of 1 per expert."""

    tags: tuple[str, ...]
    layers: tuple[str, ...]
    load_LGE: tuple[Floats, ...]
    """Per layer [G, E]; layers may differ in E. A domain that a layer never saw is a row of zeros."""

    @staticmethod
    def of(loads: ExpertLoads) -> DomainLoads:
        """What the model's own router asked for, by tag. Raises ConfigError for loads without tags or layers."""
        if not loads.by_tag:
            raise ConfigError(
                "tags of the loads", [], "at least one: a placement is fitted to the loads by domain"
            )
        if not loads.layers:
            raise ConfigError("layers of the loads", [], "at least one")
        counts_GLE = np.array([counts.before_LE for counts in loads.by_tag.values()], dtype=np.float64)
        return DomainLoads(
            tags=tuple(loads.by_tag),
            layers=loads.layers,
            load_LGE=tuple(
                scaled(counts_GLE[:, layer, :num_experts])
                for layer, num_experts in enumerate(loads.num_experts_L.tolist())
            ),
        )

    @property
    def num_experts_L(self) -> tuple[int, ...]:
        """E of each layer."""
        return tuple(load_GE.shape[1] for load_GE in self.load_LGE)

    def only(self, domains: Sequence[int]) -> DomainLoads:
        """These domains (by number), in this order."""
        return replace(
            self,
            tags=tuple(self.tags[domain] for domain in domains),
            load_LGE=tuple(load_GE[list(domains)] for load_GE in self.load_LGE),
        )


def scaled(load_SE: Floats) -> Floats:
    """Each row over its mean; a row of zeros stays."""
    mean_S = load_SE.mean(-1, keepdims=True)
    return np.asarray(load_SE / np.where(mean_S > 0, mean_S, 1.0))


def noisy_scenarios(load_GE: Floats, num_scenarios: int, noise: float, rng: np.random.Generator) -> Floats:
    """[S, E]: the domains themselves, then noisy copies of them in turn, S >= num_scenarios.

    Each expert of a copy is multiplied by exp(noise * z), z standard normal: what a request of the domain, or a
    domain like it, may do. Without noise there are no copies.
    """
    num_domains, num_experts = load_GE.shape
    num_copies = max(num_scenarios - num_domains, num_domains) if noise > 0 else 0
    base_SE = load_GE[np.arange(num_copies) % num_domains]
    factor_SE = np.exp(noise * rng.standard_normal((num_copies, num_experts)))
    return np.concatenate([load_GE, scaled(base_SE * factor_SE)])
