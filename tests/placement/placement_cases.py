"""Loads by domain for the placement tests."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from evenmoe.loads import ExpertLoads, LoadCounts, read_loads
from evenmoe.placement import DomainLoads, FitSettings, compare_methods
from evenmoe.placement.domain_loads import scaled

RECORDED = Path(__file__).parents[3] / "shared" / "data" / "expert_loads"


def random_loads(seed, num_domains, num_experts, sigma=1.0):
    """[G, E]: log-normal loads, each domain scaled to a mean of 1."""
    rng = np.random.default_rng(seed)
    return scaled(np.exp(sigma * rng.standard_normal((num_domains, num_experts))))


def alike_loads(seed, num_domains, num_experts):
    """[G, E]: as `random_loads`, but most of an expert's load is the same in every domain, as in real models."""
    common_GE = np.repeat(random_loads(seed, 1, num_experts, 0.8), num_domains, axis=0)
    return scaled(common_GE * random_loads(seed + 1000, num_domains, num_experts, 0.4))


def misleading_counts():
    """[G, E] counts of two unlike domains: what vector learns of one misleads on the other, for 4 devices."""
    for seed in range(60):
        counts_GE = (1000 * random_loads(seed, 2, 8, sigma=2.0)).astype(np.int64)
        balanced, vector = compare_methods(
            domain_loads(scaled(counts_GE)), ["load_balanced", "vector"], FitSettings(num_devices=4)
        )
        if vector.heldout_straggler_factor > balanced.heldout_straggler_factor + 0.01:
            return counts_GE
    raise AssertionError("no such case in 60")


def domain_loads(*load_LGE):
    """DomainLoads of the given layers [G, E]."""
    return DomainLoads(
        tags=tuple(f"domain {index}" for index in range(len(load_LGE[0]))),
        layers=tuple(map(str, range(len(load_LGE)))),
        load_LGE=tuple(np.asarray(load_GE, dtype=np.float64) for load_GE in load_LGE),
    )


def expert_loads(counts_GLE, tags=None, num_experts_L=None):
    """ExpertLoads with the given counts of each tag."""
    counts_GLE = np.asarray(counts_GLE)
    num_domains, num_layers, num_experts = counts_GLE.shape
    tags = [f"domain {index}" for index in range(num_domains)] if tags is None else tags
    return ExpertLoads(
        layers=tuple(f"layers.{index}" for index in range(num_layers)),
        num_experts_L=np.full(num_layers, num_experts) if num_experts_L is None else np.array(num_experts_L),
        top_k=1,
        total=LoadCounts.undropped(counts_GLE.sum(0), 1),
        by_tag={tag: LoadCounts.undropped(counts_GLE[index], 1) for index, tag in enumerate(tags)},
    )


def recorded(name):
    """The published loads of a model, or a skip."""
    path = RECORDED / f"{name}.json"
    if not path.exists():
        pytest.skip(f"the published recording {path.name} is not beside this checkout")
    return DomainLoads.of(read_loads(path))


@st.composite
def fits(draw):
    """(loads [G, E], devices, replicas)."""
    num_devices = draw(st.integers(2, 5))
    num_experts = draw(st.integers(num_devices, 13))
    replicas = draw(st.integers(1, num_experts * (num_devices - 1)))
    seed, num_domains = draw(st.integers(0, 999)), draw(st.integers(1, 4))
    load_GE = random_loads(seed, num_domains, num_experts, draw(st.sampled_from([0.0, 0.5, 2.0])))
    load_GE[draw(st.integers(0, num_domains - 1))] *= draw(st.sampled_from([0.0, 1.0]))
    return load_GE, num_devices, replicas
