"""BatchTime: how long the model takes for a batch: a fixed part, a part per token, and what the busiest device adds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evenmoe.errors import ShapeError

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class BatchTime:
    """seconds = fixed_s + per_token_s * tokens + per_peak_pair_s * peak pairs.

    Tokens are counted with padding, since the model computes it too. Peak pairs are those of the busiest device, summed
    over layers; they count where experts are on processes of their own, and not in a single one.
    """

    fixed_s: float
    per_token_s: float
    per_peak_pair_s: float = 0.0

    def seconds(self, tokens: int, peak_pairs: float = 0.0) -> float:
        """The time of such a batch."""
        return self.fixed_s + self.per_token_s * tokens + self.per_peak_pair_s * peak_pairs


def fit_batch_time(
    tokens_N: ArrayLike, seconds_N: ArrayLike, peak_pairs_N: ArrayLike | None = None
) -> BatchTime:
    """The least-squares fit to measured batches, right in the mean; no part is below 0.

    peak_pairs_N: where the busiest device counts. Where all batches have as many tokens, time is in proportion to them.
    Raises ShapeError for no measurement, or times that do not belong to the tokens.
    """
    tokens, seconds = np.asarray(tokens_N, dtype=np.float64), np.asarray(seconds_N, dtype=np.float64)
    if tokens.ndim != 1 or tokens.shape != seconds.shape or not tokens.size:
        raise ShapeError(f"tokens {tokens.shape} and seconds {seconds.shape} must both be [N], N at least 1")
    if peak_pairs_N is None:
        return _line(tokens, seconds)
    peaks = np.asarray(peak_pairs_N, dtype=np.float64)
    if peaks.shape != tokens.shape:
        raise ShapeError(f"peak pairs {peaks.shape} must be [N], as tokens {tokens.shape}")
    columns = np.stack([np.ones_like(tokens), tokens, peaks], axis=1)
    per_peak = max(float(np.linalg.lstsq(columns, seconds, rcond=None)[0][2]), 0.0)
    per_peak = min(per_peak, float((seconds / np.maximum(peaks, 1.0)).min()))  # the rest is not negative
    return replace(_line(tokens, seconds - per_peak * peaks), per_peak_pair_s=per_peak)


def _line(tokens: Floats, seconds: Floats) -> BatchTime:
    deviation = tokens - tokens.mean()
    spread = float(deviation @ deviation)
    proportional = float(seconds.mean() / tokens.mean())
    slope = float(deviation @ seconds) / spread if spread > 0 else proportional
    slope = min(max(slope, 0.0), proportional)  # beyond that the fixed part would be negative
    fixed = max(float(seconds.mean()) - slope * float(tokens.mean()), 0.0)
    return BatchTime(fixed_s=fixed, per_token_s=slope)
