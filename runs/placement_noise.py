"""docs/placement.md, "Noise": vector at several strengths of noise, mean and scatter over five seeds.

Run: python runs/placement_noise.py --loads olmoe-1b-7b.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from evenmoe.loads import read_loads
from evenmoe.placement.comparison import compare_methods
from evenmoe.placement.domain_loads import DomainLoads
from evenmoe.placement.methods import FitSettings


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loads", type=Path, required=True)
    parser.add_argument("--devices", type=int, default=8)
    args = parser.parse_args()
    domains = DomainLoads.of(read_loads(args.loads))
    for noise in (0.0, 0.1, 0.2, 0.4, 0.8, 1.2):
        results = [
            compare_methods(
                domains, ["vector"], FitSettings(num_devices=args.devices, noise=noise, seed=100 * seed)
            )[0]
            for seed in range(5)
        ]
        fitted = [result.fitted_straggler_factor for result in results]
        held_out = [result.heldout_straggler_factor or np.nan for result in results]
        by_domain = {
            tag: round(float(np.mean([(result.heldout_by_domain or {})[tag] for result in results])), 3)
            for tag in domains.tags
        }
        print(
            f"noise {noise}: fitted {np.mean(fitted):.3f}, held out {np.mean(held_out):.3f} "
            f"(one seed {np.std(held_out, ddof=1):.3f}) {by_domain}",
            flush=True,
        )


if __name__ == "__main__":
    main()
