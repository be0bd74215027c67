"""docs/prediction.md, "On text of another kind": a prior learned on some domains' token tables, measured on another.

`--tables` are .npz files with columns layer, expert, token, count, named MODEL.tokens.DOMAIN.npz. Each domain in turn
is predicted from all others; its tokens are taken as one prompt. Also printed: the mean of what was learned from, and
the share of the tokens that were seen there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evenmoe.scheduling.predictors import TokenCounts, TokenPrior, cosine, top_overlap

Floats = NDArray[np.float64]


def transfer(counts: dict[str, TokenCounts], held_out: str) -> tuple[TokenPrior, NDArray[np.int64], Floats]:
    """The prior of all other domains, the tokens of the one held out, and its true load [L, E]."""
    others = {domain: one for domain, one in counts.items() if domain != held_out}
    prior = TokenPrior.of_counts(others.values(), domains=tuple(others))
    truth = counts[held_out]
    return prior, np.repeat(truth.ids_R, truth.seen_R), truth.load_LE().astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=Path, nargs="+", required=True)
    parser.add_argument("--experts", type=int, required=True)
    parser.add_argument("--top-k", type=int, required=True)
    options = parser.parse_args()
    counts = {}
    for path in options.tables:
        with np.load(path) as table:
            domain = path.stem.rpartition(".")[2]
            counts[domain] = TokenCounts.of_table(table, num_experts=options.experts, top_k=options.top_k)
    print("held out  tokens seen   prior: cosine by layer   busiest   mean: cosine by layer")
    for held_out in counts:
        prior, ids_T, true_LE = transfer(counts, held_out)
        predicted_LE = prior.predict(ids_T)
        by_layer = " / ".join(f"{value:.3f}" for value in cosine(predicted_LE, true_LE))
        mean = " / ".join(f"{value:.3f}" for value in cosine(prior.mean_LE, true_LE))
        busiest = float(top_overlap(predicted_LE, true_LE, options.top_k).mean())
        print(f"{held_out:8}  {prior.coverage(ids_T):11.1%}   {by_layer:22}   {busiest:7.0%}   {mean}")


if __name__ == "__main__":
    main()
