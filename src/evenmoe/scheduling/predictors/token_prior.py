"""TokenPrior: what a prompt's tokens alone say about the experts it will use.

Shape letters: T tokens of a prompt, L layers, E experts, X = L * E, R token ids that were seen, U different rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.scheduling.predictors.calibration import Calibration
from evenmoe.scheduling.predictors.predictor import as_ids
from evenmoe.scheduling.predictors.token_counts import TokenCounts, sum_counts

Floats = NDArray[np.float64]

SHRINKAGE = 0.5
"""An id seen n times weighs n / (n + SHRINKAGE)."""

_MEAN_WEIGHT = 0.5
"""What the mean over all recorded tokens weighs in every prompt, in tokens."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenPrior:
    """A table: token id -> expected (token, expert) pairs of that token in each layer.

    A prompt's load is the weighted mean of its tokens' rows, times its number of tokens. A row is the mean over the n
    recorded tokens of that id and weighs n / (n + shrinkage); an id that was never seen weighs nothing, so that it is
    taken to be as the rest of its prompt. The mean over all recorded tokens weighs as much as half a token. Where every
    token is given K experts, each layer of a prediction sums to K * T. `calibration`, if there is one, comes last.

    counts: what was recorded. shrinkage: above 0.
    model: the name of the model. domains: of the texts it was learned on.
    Raises ConfigError and ShapeError.
    """

    counts: TokenCounts
    shrinkage: float = SHRINKAGE
    calibration: Calibration | None = None
    model: str = ""
    domains: tuple[str, ...] = ()
    _table: _Table = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.shrinkage < float("inf"):
            raise ConfigError("shrinkage", self.shrinkage, "a number above 0")
        if self.calibration and self.calibration.change_LEE.shape[:2] != (self.num_layers, self.num_experts):
            raise ShapeError(
                f"the calibration is for {self.calibration.change_LEE.shape[:2]} layers and experts, "
                f"the counts for {(self.num_layers, self.num_experts)}"
            )
        object.__setattr__(self, "_table", _Table.of(self.counts, self.shrinkage))

    @property
    def num_layers(self) -> int:
        """L."""
        return self.counts.num_layers

    @property
    def num_experts(self) -> int:
        """E, the most of any layer; a layer with fewer is padded with zeros."""
        return self.counts.num_experts

    @property
    def top_k(self) -> int:
        """K."""
        return self.counts.top_k

    @property
    def mean_LE(self) -> Floats:
        """[L, E]: expected pairs of a token of which nothing is known."""
        return self._table.mean_X.reshape(self.num_layers, self.num_experts)

    def predict(self, ids_T: ArrayLike, topic: str | None = None) -> Floats:
        """[L, E]: expected pairs of a whole prompt, whatever the order of its tokens. `topic` is not used.

        Raises ShapeError and ConfigError for anything but a list of token ids.
        """
        table = self._table
        row_T = table.rows(ids_T)
        number_R = np.bincount(row_T, minlength=len(table.weight_R))
        row_U = number_R.nonzero()[0]
        number_U = number_R[row_U].astype(np.float32)
        weight = float(number_U @ table.weight_R[row_U]) + _MEAN_WEIGHT
        sum_X = number_U @ table.rows_RX[row_U] + _MEAN_WEIGHT * table.mean_X
        load_LE = (sum_X * (len(row_T) / weight)).reshape(self.num_layers, self.num_experts)
        return load_LE if self.calibration is None else self.calibration.apply(load_LE)

    def coverage(self, ids_T: ArrayLike) -> float:
        """Share of a prompt's tokens whose id was seen when learning; of the others the prior knows nothing."""
        row_T = self._table.rows(ids_T)
        return float(np.count_nonzero(row_T) / max(len(row_T), 1))

    def replace(self, **changes: Any) -> Self:
        """The same prior with another shrinkage or calibration, or without one."""
        return replace(self, **changes)

    def save(self, path: str | Path) -> Path:
        """Write the prior to `path`, which must end in .npz, in one step. Returns the path. Raises ConfigError."""
        from evenmoe.scheduling.predictors.prior_files import write_token_prior

        return write_token_prior(self, path)

    @classmethod
    def of_counts(cls, parts: Iterable[TokenCounts], **options: Any) -> Self:
        """A prior of several parts together, not calibrated. `options` are the other fields.

        Raises ConfigError without any part, ShapeError for parts of different models.
        """
        return cls(counts=sum_counts(list(parts)), **options)

    @classmethod
    def from_token_tables(
        cls, tables: Iterable[Mapping[str, Any]], *, num_experts: int, top_k: int, **options: Any
    ) -> Self:
        """A prior from recorded tables with columns `layer`, `expert`, `token`, `count` (see TokenCounts.of_table).

        Such tables say nothing of single prompts, so it is not calibrated. Raises ConfigError and ShapeError.
        """
        parts = (TokenCounts.of_table(table, num_experts=num_experts, top_k=top_k) for table in tables)
        return cls.of_counts(parts, **options)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Table:
    """rows_RX: counts / (n + shrinkage) of each id seen, after row 0, of zeros, for all others.

    weight_R: what each row weighs. row_of_id: the row of each id up to one past the largest seen.
    mean_X: the mean over all recorded tokens.
    """

    rows_RX: NDArray[np.float32]
    weight_R: NDArray[np.float32]
    row_of_id: NDArray[np.int32]
    mean_X: Floats

    @staticmethod
    def of(counts: TokenCounts, shrinkage: float) -> _Table:
        rows_RX = np.zeros((len(counts.ids_R) + 1, counts.num_layers * counts.num_experts), dtype=np.float32)
        rows_RX[1:].reshape(-1)[counts.cell_N] = counts.count_N
        rows_RX[1:] /= (counts.seen_R + shrinkage)[:, None]
        weight_R = np.zeros(len(rows_RX), dtype=np.float32)
        weight_R[1:] = counts.seen_R / (counts.seen_R + shrinkage)
        row_of_id = np.zeros(int(counts.ids_R[-1]) + 2, dtype=np.int32)
        row_of_id[counts.ids_R] = np.arange(1, len(rows_RX))
        mean_X = counts.load_LE().reshape(-1) / counts.num_tokens
        return _Table(rows_RX=rows_RX, weight_R=weight_R, row_of_id=row_of_id, mean_X=mean_X)

    def rows(self, ids_T: ArrayLike) -> NDArray[np.int32]:
        """[T]: the row of each token of a prompt."""
        return self.row_of_id[np.minimum(as_ids(ids_T), len(self.row_of_id) - 1)]
