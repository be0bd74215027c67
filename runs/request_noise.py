"""docs/workloads.md, "How requests differ": how far the expert loads of texts of one domain scatter, by their length.

Cuts each domain of the bundled model's held-out text into windows of several lengths, counts each window's experts,
and fits the two numbers of LoadNoise: over windows of T tokens, the variance of an expert's pairs per token, p in the
mean, is taken to be (exp(request^2) - 1) p^2 + alike_tokens p (1 - p) / T. Least squares over lengths, of sums over
experts.

Run: python runs/request_noise.py
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

import evenmoe
from evenmoe.evaluation.texts import Window, cut_windows, heldout_texts, num_fitting
from evenmoe.models.bundled import bundled_tokenizer, load_bundled
from evenmoe.routing import Baseline

Floats = NDArray[np.float64]


def window_loads(num_tokens: int, most_windows: int) -> dict[str, Floats]:
    """By domain [windows, L, E]: pairs per token of windows of `num_tokens` tokens."""
    import torch

    texts, tokenizer, model = heldout_texts(), bundled_tokenizer("text"), load_bundled("text")
    num_windows = min(num_fitting(texts, tokenizer, num_tokens), most_windows * len(texts))
    windows = cut_windows(texts, tokenizer, num_windows=num_windows, window_tokens=num_tokens)
    loads: dict[str, list[Floats]] = {}
    with torch.no_grad(), evenmoe.attach(model, Baseline(), num_devices=1) as attached:
        for start in range(0, len(windows), 16):
            rows: Sequence[Window] = windows[start : start + 16]
            attached.reset_loads()
            with attached.tagged([str(row) for row in range(len(rows))]):
                model(torch.from_numpy(np.array([window.ids_S for window in rows])))
            for row, window in enumerate(rows):
                counts_LE = attached.loads.by_tag[str(row)].before_LE
                loads.setdefault(window.domain, []).append(counts_LE / num_tokens)
    return {domain: np.array(load) for domain, load in loads.items()}


def fitted(moments: Sequence[tuple[int, float, float, float]]) -> tuple[float, float]:
    """(request, alike_tokens) from rows of (T, sum of variances, sum of p^2, sum of p (1 - p))."""
    factors = np.array([[square, spread / num_tokens] for num_tokens, _, square, spread in moments])
    variances = np.array([variance for _, variance, _, _ in moments])
    (own, alike), *_ = np.linalg.lstsq(factors, variances, rcond=None)
    return math.sqrt(math.log1p(max(own, 0.0))), max(float(alike), 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--windows", type=int, default=64, help="of each domain and length, at most")
    args = parser.parse_args()
    moments: dict[str, list[tuple[int, float, float, float]]] = {}
    for num_tokens in args.lengths:
        for domain, load_NLE in window_loads(num_tokens, args.windows).items():
            mean_LE = load_NLE.mean(0)
            spread = float((mean_LE * (1 - mean_LE)).sum())
            variance = float(load_NLE.var(0, ddof=1).sum())
            moments.setdefault(domain, []).append((num_tokens, variance, float((mean_LE**2).sum()), spread))
    for domain, rows in moments.items():
        over_even = "  ".join(f"{tokens}: {var * tokens / spread:5.2f}" for tokens, var, _, spread in rows)
        request, alike = fitted(rows)
        print(f"{domain:12s} variance over that of independent tokens, by length  {over_even}", end="")
        print(f"   request {request:.2f}, alike_tokens {alike:.2f}")
    request, alike = np.mean([fitted(rows) for rows in moments.values()], axis=0)
    print(f"mean: request {request:.2f}, alike_tokens {alike:.2f}")


if __name__ == "__main__":
    main()
