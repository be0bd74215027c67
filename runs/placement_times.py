"""docs/placement.md, "Time": CPU seconds of one fit on random loads, by size.

Run: python runs/placement_times.py
"""

from __future__ import annotations

import time

import numpy as np

from evenmoe.placement.domain_loads import DomainLoads, scaled
from evenmoe.placement.methods import FitSettings, fit_placement

# experts, devices, layers
SIZES = ((64, 8, 16), (60, 6, 24), (128, 16, 48), (256, 32, 4), (256, 64, 4))


def main() -> None:
    for num_experts, num_devices, num_layers in SIZES:
        rng = np.random.default_rng(0)
        load_LGE = tuple(scaled(np.exp(rng.standard_normal((8, num_experts)))) for _ in range(num_layers))
        names = tuple(map(str, range(8))), tuple(map(str, range(num_layers)))
        domains = DomainLoads(tags=names[0], layers=names[1], load_LGE=load_LGE)
        settings = FitSettings(num_devices=num_devices, replicas=num_devices)
        for method in ("load_balanced", "vector", "vector_replicated"):
            started = time.process_time()
            fit_placement(domains, method, settings)
            seconds = time.process_time() - started
            print(
                f"{num_experts} experts, {num_devices} devices, {num_layers} layers, {method}: {seconds:.1f} s of CPU, "
                f"{seconds / num_layers:.2f} s per layer",
                flush=True,
            )


if __name__ == "__main__":
    main()
