"""The load vectors of queued requests, oldest first, and the products between them.

Shape letters: W requests, X entries, R rows of the tables.

A load vector has X entries: experts, or layers one after the other of experts or of devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evenmoe.errors import ConfigError, ShapeError

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

SHORT = 128
"""Windows up to this length make all products of a decision at once: one matrix product beats many small ones."""

_AGE_TERM = 1e-14
"""What each place in the queue adds to a score, beside its largest term: more than rounding, less than matters."""

_AGES: Final = _AGE_TERM * np.arange(4096)


class Window:
    """Queued requests' loads in order of age, with what the strategies ask of them.

    length: X, entries of every load vector.
    num_layers: L, of which the vector is made; L divides X.
    keep_products: keep the products of all pairs from one decision to the next, which pays where windows are long.
        Without it, a product is computed when asked for.

    Requests keep their row of the tables while they wait; `_row_W` says which, by age.
    Raises ConfigError for a length below 1 or layers that do not divide it.
    """

    def __init__(self, length: int, *, num_layers: int = 1, keep_products: bool = True) -> None:
        if length < 1:
            raise ConfigError("length", length, "at least 1: one entry per expert or device")
        if num_layers < 1 or length % num_layers:
            raise ConfigError("num_layers", num_layers, f"a divisor of the {length} entries of a load vector")
        self.length, self.num_layers, self.keep_products = length, num_layers, keep_products
        self._row_W: Ints = np.zeros(0, dtype=np.int64)
        self._vacant: list[int] = []
        self._is_whole = False
        self._set_tables(np.zeros((0, length)))

    @classmethod
    def of(cls, loads_WX: ArrayLike, *, num_layers: int = 1) -> Window:
        """A window of `loads_WX` [W, X], the oldest first, for one decision. Raises ShapeError, ConfigError."""
        checked_WX = as_loads(loads_WX)
        is_short = len(checked_WX) <= SHORT
        window = cls(checked_WX.shape[1], num_layers=num_layers, keep_products=is_short)
        window._set_tables(checked_WX)
        window._row_W = np.arange(len(checked_WX))
        window._is_whole = True
        return window

    def __len__(self) -> int:
        return len(self._row_W)

    def add(self, loads_NX: ArrayLike) -> None:
        """Append `loads_NX` [N, X] as the youngest, in this order. Raises ShapeError, ConfigError."""
        new_NX = as_loads(loads_NX)
        if new_NX.shape[1] != self.length:
            raise ShapeError(
                f"a load vector has {new_NX.shape[1]} entries, those of the window {self.length}"
            )
        row_N = self._vacant_rows(len(new_NX))
        self._load_RX[row_N] = new_NX
        self._total_R[row_N] = new_NX.sum(-1)
        self._norm_R[row_N] = np.einsum("nx,nx->n", new_NX, new_NX)
        self._row_W = np.concatenate([self._row_W, row_N])
        self._is_whole = False
        self._has_products_R[row_N] = self._is_complete = False

    def replace(self, index: int, load_X: Floats) -> None:
        """Give one request another load vector [X], as `as_loads` checks them."""
        row = self._row_W[index]
        self._load_RX[row] = load_X
        self._total_R[row], self._norm_R[row] = load_X.sum(), load_X @ load_X
        self._has_products_R[row] = self._is_complete = False

    def remove(self, indices: Sequence[int] | Ints) -> None:
        """Take out the requests at `indices`; those that stay keep their order."""
        stays_W = np.ones(len(self), dtype=bool)
        stays_W[indices if isinstance(indices, np.ndarray) else list(indices)] = False
        self._vacant += self._row_W[~stays_W].tolist()
        self._row_W = self._row_W[stays_W]
        self._is_whole = False

    def loads(self, indices: Sequence[int] | Ints | slice = slice(None)) -> Floats:
        """[N, L, X / L]: a copy of the load vectors of these requests, layer by layer."""
        rows_NX = self._load_RX.take(self._row_W[indices], axis=0)
        return rows_NX.reshape(len(rows_NX), self.num_layers, -1)

    def surplus(self, indices: Sequence[int] | Ints | slice = slice(None)) -> Floats:
        """[N, L, X / L]: what each entry of a layer has above the layer's mean, times the entries of a layer."""
        load_NLD = self.loads(indices)
        total_NL = np.add.reduce(load_NLD, 2)
        load_NLD *= load_NLD.shape[2]
        load_NLD -= total_NL[:, :, None]
        return load_NLD

    def surplus_by_entry(self) -> Floats:
        """[X, W]: `surplus` of all, requests last."""
        return np.ascontiguousarray(self.surplus().reshape(len(self), -1).T)

    def surplus_at(self, entry_L: Ints) -> Floats:
        """[W]: the sum over layers of `surplus` at one entry of each, given by its place in the vector."""
        load_WL = self._load_RX[self._row_W[:, None], entry_L]
        return np.asarray(load_WL.sum(1) * (self.length // self.num_layers) - self.total_W)

    def centred_loads(self, indices: Sequence[int] | Ints | slice = slice(None)) -> Floats:
        """[N, X]: a copy of the load vectors of these requests, each less its mean."""
        row_N = self._row_W[indices]
        load_NX = self._load_RX.take(row_N, axis=0)
        load_NX -= (self._total_R.take(row_N) / self.length)[:, None]
        return load_NX

    @property
    def total_W(self) -> Floats:
        """[W]: the sum of each load vector."""
        return self._waiting(self._total_R)

    @property
    def norm_W(self) -> Floats:
        """[W]: the square of each load vector's length."""
        return self._waiting(self._norm_R)

    @property
    def variation_W(self) -> Floats:
        """[W]: X times the variance of each load vector."""
        return np.asarray(self.norm_W - self.total_W**2 / self.length)

    def dots(self, index: int) -> Floats:
        """[W]: the product of one request's load vector with every other's."""
        row = self._row_W[index]
        if not self.keep_products:
            return self._waiting(self._load_RX @ self._load_RX[row])
        self._complete_products()
        return self._waiting(self._dot_RR[row])

    def centred_dots(self, index: int) -> Floats:
        """[W]: the product of one request's load vector with every other's, each less its mean."""
        total_W = self.total_W
        return np.asarray(self.dots(index) - (total_W[index] / self.length) * total_W)

    def dots_with(self, load_X: Floats, *, centred: bool = False) -> Floats:
        """[W]: the product of any load vector [X] with every request's, each less its mean if `centred`."""
        dot_W = self._waiting(self._load_RX @ load_X)
        if centred:
            dot_W -= (load_X.sum() / self.length) * self.total_W
        return np.asarray(dot_W)

    def all_dots(self, *, centred: bool = False) -> Floats:
        """[W, W]: the products of all pairs, each less its mean if `centred`; computed anew."""
        load_WX = self.centred_loads() if centred else self._load_RX.take(self._row_W, axis=0)
        return np.asarray(np.dot(load_WX, load_WX.T))

    def table_of_dots(self) -> tuple[Floats, Ints]:
        """[R, R], [W]: a table of products, not to be changed, and each request's row of it."""
        if self.keep_products and len(self) > SHORT:
            self._complete_products()
            return self._dot_RR, self._row_W
        return self.all_dots(), np.arange(len(self))

    def _waiting(self, table_R: Floats) -> Floats:
        """[W]: the entries of the waiting requests, by age; always a copy."""
        return np.asarray(table_R.copy() if self._is_whole else table_R.take(self._row_W))

    def _complete_products(self) -> None:
        """Compute the products of the requests that came since they were last asked for."""
        if self._is_complete:
            return
        row_N = self._row_W[~self._has_products_R[self._row_W]]
        dot_RN = self._load_RX @ self._load_RX[row_N].T
        self._dot_RR[:, row_N] = dot_RN
        self._dot_RR[row_N] = dot_RN.T
        self._has_products_R[row_N] = True
        self._is_complete = True

    def _vacant_rows(self, number: int) -> Ints:
        """`number` rows of the tables that no request has; the tables grow where they are full."""
        size = len(self._load_RX)
        if len(self) + number > size:
            self._grow(max(len(self) + number + size // 4, 16))
            self._vacant += range(size, len(self._load_RX))
        rows, self._vacant = self._vacant[:number], self._vacant[number:]
        return np.array(rows, dtype=np.int64)

    def _grow(self, size: int) -> None:
        old_RX, dot_RR, has_products_R = self._load_RX, self._dot_RR, self._has_products_R
        old = len(old_RX)
        load_RX = np.zeros((size, self.length))
        load_RX[:old] = old_RX
        self._set_tables(load_RX)
        if self.keep_products:
            self._dot_RR[:old, :old] = dot_RR
            self._has_products_R[:old] = has_products_R

    def _set_tables(self, load_RX: Floats) -> None:
        size = len(load_RX)
        self._load_RX = load_RX
        self._total_R = load_RX.sum(-1)
        self._norm_R = np.einsum("rx,rx->r", load_RX, load_RX)
        self._dot_RR = np.zeros((size, size) if self.keep_products else (0, 0))
        self._has_products_R = np.zeros(size, dtype=bool)
        self._is_complete = False


def age_terms(number: int, scale: float) -> Floats:
    """[number]: what to add to scores made of terms up to `scale`, by age, so that the older of equals scores less."""
    scale = scale or 1.0  # where all is 0, anything tells them apart
    return np.asarray(
        _AGES[:number] * scale if number <= len(_AGES) else _AGE_TERM * scale * np.arange(number)
    )


def as_loads(loads_WX: ArrayLike) -> Floats:
    """[W, X] float64, finite and not negative. Raises ShapeError, ConfigError."""
    loads = np.array(loads_WX, dtype=np.float64, order="C")
    if loads.ndim != 2 or loads.shape[1] == 0:
        raise ShapeError(f"loads must be [requests, entries], got {loads.shape}")
    if loads.size and not (np.isfinite(loads.max()) and loads.min() >= 0):
        raise ConfigError("loads", loads_WX, "finite numbers of at least 0")
    return loads
