"""TokenCounts: how often each token id was routed to each expert, of which a token prior is made.

Shape letters: T tokens, L layers, E experts, R token ids that were seen, N cells that are not zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evenmoe.errors import ConfigError, ShapeError

Ints = NDArray[np.int64]

LARGEST_VOCABULARY = 1 << 24
"""Token ids are below this."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenCounts:
    """Counts of (token, expert) pairs by token id and layer. Only token ids that were seen have a row.

    num_layers, num_experts: L, and the most experts E of any layer.
    top_k: K, the most experts that a token is given in one layer.
    ids_R: the token ids, ascending. seen_R: how many tokens had that id.
    cell_N: places of the counts that are not zero in a table [R, L, E] laid flat, ascending. count_N: those counts.
    Raises ConfigError and ShapeError for numbers that cannot be counts.
    """

    num_layers: int
    num_experts: int
    top_k: int
    ids_R: Ints
    seen_R: Ints
    cell_N: Ints
    count_N: Ints

    def __post_init__(self) -> None:
        for name in ("num_layers", "num_experts", "top_k"):
            if getattr(self, name) < 1:
                raise ConfigError(name, getattr(self, name), "at least 1")
        if self.top_k > self.num_experts:
            raise ConfigError("top_k", self.top_k, f"at most the {self.num_experts} experts")
        for names in (("ids_R", "seen_R"), ("cell_N", "count_N")):
            first, second = (getattr(self, name) for name in names)
            if first.ndim != 1 or first.shape != second.shape:
                raise ShapeError(
                    f"{names[0]} {first.shape} and {names[1]} {second.shape} must be lists of one length"
                )
        if not len(self.ids_R):
            raise ConfigError("ids_R", [], "at least one token")
        _check_ascending("ids_R", self.ids_R, LARGEST_VOCABULARY)
        _check_ascending("cell_N", self.cell_N, len(self.ids_R) * self.num_layers * self.num_experts)
        for name in ("seen_R", "count_N"):
            if (getattr(self, name) < 1).any():
                raise ConfigError(name, int(getattr(self, name).min()), "at least 1 each")
        row_N, place_N = np.divmod(self.cell_N, self.num_layers * self.num_experts)
        if (self.count_N > self.seen_R[row_N]).any():
            raise ConfigError(
                "count_N", int(self.count_N.max()), "at most one pair of an expert for each token"
            )
        pairs_Y = np.bincount(
            row_N * self.num_layers + place_N // self.num_experts,
            self.count_N,
            len(self.ids_R) * self.num_layers,
        )
        if (pairs_Y.reshape(-1, self.num_layers) > self.top_k * self.seen_R[:, None]).any():
            raise ConfigError(
                "count_N", int(pairs_Y.max()), f"at most top_k = {self.top_k} pairs for each token"
            )

    @property
    def num_tokens(self) -> int:
        """All tokens that were seen."""
        return int(self.seen_R.sum())

    def dense(self) -> Ints:
        """[R, L, E]: the counts as a table."""
        table = np.zeros(len(self.ids_R) * self.num_layers * self.num_experts, dtype=np.int64)
        table[self.cell_N] = self.count_N
        return table.reshape(-1, self.num_layers, self.num_experts)

    def load_LE(self) -> Ints:
        """[L, E]: the pairs of all tokens."""
        size = self.num_layers * self.num_experts
        load_X = np.bincount(self.cell_N % size, self.count_N, size)
        return load_X.astype(np.int64).reshape(self.num_layers, self.num_experts)

    @property
    def shape(self) -> tuple[int, int, int]:
        """L, E and K."""
        return self.num_layers, self.num_experts, self.top_k

    @staticmethod
    def of_table(table: Mapping[str, Any], *, num_experts: int, top_k: int) -> TokenCounts:
        """Counts from columns `layer`, `expert`, `token`, `count`: a row for each (layer, expert, token id).

        The layers that occur become layers 0, 1, ... in their order. Tokens seen are pairs / K, the most of any layer.
        Raises ConfigError for a column that is missing or out of range, ShapeError for columns of unequal length.
        """
        columns = [_column(table, name) for name in ("layer", "expert", "token", "count")]
        if len({len(column) for column in columns}) != 1:
            raise ShapeError(f"columns have unequal lengths {[len(column) for column in columns]}")
        layer_P, expert_P, id_P, count_P = columns
        _, layer_P = np.unique(layer_P, return_inverse=True)
        counter = TokenCounter(int(layer_P.max(initial=-1)) + 1, num_experts, top_k)
        counter.add_pairs(layer_P, expert_P, id_P, count_P)
        return counter.counts()


def sum_counts(parts: Sequence[TokenCounts]) -> TokenCounts:
    """The counts of all parts together.

    Raises ConfigError without any part, ShapeError for parts of another shape of model.
    """
    shapes = {part.shape for part in parts}
    if not shapes:
        raise ConfigError("parts", [], "at least one")
    if len(shapes) > 1:
        raise ShapeError(f"counts of (layers, experts, top_k) {sorted(shapes)} are not of one model")
    total = TokenCounter(*shapes.pop())
    for part in parts:
        row_N, place_N = np.divmod(part.cell_N, part.num_layers * part.num_experts)
        layer_N, expert_N = np.divmod(place_N, part.num_experts)
        total.add_seen(part.ids_R, part.seen_R)
        total.add_pairs(layer_N, expert_N, part.ids_R[row_N], part.count_N)
    return total.counts()


class TokenCounter:
    """Gathers counts while a model runs. Raises ConfigError for sizes below 1.

    Memory: 8 bytes * L * E for each token id that was seen.
    """

    def __init__(self, num_layers: int, num_experts: int, top_k: int) -> None:
        for name, value in (("num_layers", num_layers), ("num_experts", num_experts), ("top_k", top_k)):
            if value < 1:
                raise ConfigError(name, value, "at least 1")
        self.num_layers, self.num_experts, self.top_k = num_layers, num_experts, top_k
        self._row_of: dict[int, int] = {}
        self._seen_R: Ints = np.zeros(0, dtype=np.int64)
        self._counts_RX: Ints = np.zeros((0, num_layers * num_experts), dtype=np.int64)

    def add_seen(self, ids_T: ArrayLike, seen_T: ArrayLike = 1) -> None:
        """Count the tokens of one forward, or `seen_T` of each id; their choices come through `add` or `add_pairs`."""
        row_T = self._rows(np.asarray(ids_T, dtype=np.int64))
        np.add.at(self._seen_R, row_T, np.asarray(seen_T, dtype=np.int64))

    def add(self, layer: int, ids_T: ArrayLike, chosen_TE: ArrayLike) -> None:
        """Count one layer's choice of one forward: bool [T, E]. Raises ShapeError, ConfigError."""
        ids_T, chosen_TE = np.asarray(ids_T, dtype=np.int64), np.asarray(chosen_TE, dtype=bool)
        if chosen_TE.ndim != 2 or ids_T.shape != chosen_TE.shape[:1] or chosen_TE.shape[1] > self.num_experts:
            raise ShapeError(
                f"ids_T {ids_T.shape} and chosen_TE {chosen_TE.shape} must be [T] and [T, E], "
                f"E at most {self.num_experts}"
            )
        token_P, expert_P = chosen_TE.nonzero()
        self.add_pairs(np.full(len(token_P), layer), expert_P, ids_T[token_P], np.ones_like(token_P))

    def add_pairs(self, layer_P: Ints, expert_P: Ints, id_P: Ints, count_P: Ints) -> None:
        """Count `count_P` pairs of each (layer, expert, token id), all [P]. Raises ConfigError for one out of range."""
        for name, values, size in (
            ("layer", layer_P, self.num_layers),
            ("expert", expert_P, self.num_experts),
        ):
            if len(values) and (values.min() < 0 or values.max() >= size):
                raise ConfigError(name, [int(values.min()), int(values.max())], f"from 0 to {size - 1}")
        if len(count_P) and count_P.min() < 1:
            raise ConfigError("count", int(count_P.min()), "at least 1")
        row_P = self._rows(id_P)
        flat_P = (row_P * self.num_layers + layer_P) * self.num_experts + expert_P
        np.add.at(self._counts_RX.reshape(-1), flat_P, count_P)

    def counts(self) -> TokenCounts:
        """What was counted so far. Tokens that were not counted as seen count as pairs / K, the most of any layer."""
        ids_R = np.fromiter(self._row_of, dtype=np.int64, count=len(self._row_of))
        order_R = np.argsort(ids_R)
        counts_RX = self._counts_RX[: len(ids_R)][order_R]
        pairs_R = counts_RX.reshape(len(ids_R), self.num_layers, -1).sum(-1).max(-1, initial=0)
        seen_R = np.maximum(self._seen_R[: len(ids_R)][order_R], -(-pairs_R // self.top_k))
        cell_N = np.flatnonzero(counts_RX)
        return TokenCounts(
            num_layers=self.num_layers,
            num_experts=self.num_experts,
            top_k=self.top_k,
            ids_R=ids_R[order_R],
            seen_R=seen_R,
            cell_N=cell_N,
            count_N=counts_RX.reshape(-1)[cell_N],
        )

    def _rows(self, ids_P: Ints) -> Ints:
        """The row of each id; new ids get new rows."""
        found, inverse_P = np.unique(ids_P, return_inverse=True)
        if len(found) and (found[0] < 0 or found[-1] >= LARGEST_VOCABULARY):
            outside = found[0] if found[0] < 0 else found[-1]
            raise ConfigError("token id", int(outside), f"from 0 to {LARGEST_VOCABULARY - 1}")
        row_of = self._row_of
        row_U = np.array([row_of.setdefault(int(one), len(row_of)) for one in found], dtype=np.int64)
        missing = len(row_of) - len(self._seen_R)
        if missing > 0:
            room = max(missing, len(self._seen_R))
            self._seen_R = np.concatenate([self._seen_R, np.zeros(room, dtype=np.int64)])
            self._counts_RX = np.concatenate(
                [self._counts_RX, np.zeros((room, self._counts_RX.shape[1]), dtype=np.int64)]
            )
        return row_U[inverse_P]


def _column(table: Mapping[str, Any], name: str) -> Ints:
    if name not in table:
        raise ConfigError("columns", sorted(table), f"layer, expert, token and count; {name} is missing")
    column = np.asarray(table[name])
    if column.ndim != 1 or not np.issubdtype(column.dtype, np.integer):
        raise ConfigError(name, column.dtype.name, "a list of integers")
    return column.astype(np.int64)


def _check_ascending(name: str, values: Ints, end: int) -> None:
    if len(values) and (values[0] < 0 or (np.diff(values) <= 0).any() or values[-1] >= end):
        raise ConfigError(name, values[:8].tolist(), f"ascending, from 0 to {end - 1}")
