"""Placement: which devices hold each expert of each layer. Shape letters: L layers, E experts, D devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.loads.metrics import device_load

Floats: TypeAlias = NDArray[np.float64]
Holders: TypeAlias = tuple[tuple[int, ...], ...]
"""[E]: the devices that hold a copy of each expert."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Which devices hold each expert, layer by layer. A device may hold nothing; an expert has at least one holder.

    num_devices: D.
    holders_LE: [L][E], ascending and distinct devices; more than one where the expert is replicated.
    layers: a name for each layer.
    method: how it was made, for people.
    Raises ConfigError for devices out of range or twice, and for no layer; ShapeError for names that do not fit.
    """

    num_devices: int
    holders_LE: tuple[Holders, ...]
    layers: tuple[str, ...]
    method: str = ""

    def __post_init__(self) -> None:
        if not _is_int(self.num_devices) or self.num_devices < 1:
            raise ConfigError("num_devices", self.num_devices, "an integer of at least 1")
        if not self.holders_LE:
            raise ConfigError("holders_LE", self.holders_LE, "at least one layer")
        if len(self.layers) != len(self.holders_LE):
            raise ShapeError(f"{len(self.layers)} layer names for {len(self.holders_LE)} layers")
        for name, holders_E in zip(self.layers, self.holders_LE, strict=True):
            if not holders_E:
                raise ConfigError(f"holders of layer {name!r}", holders_E, "at least one expert")
            for expert, holders in enumerate(holders_E):
                self._check_holders(f"holders of expert {expert} in layer {name!r}", holders)

    def _check_holders(self, field: str, holders: tuple[int, ...]) -> None:
        allowed = f"one or more different devices from 0 to {self.num_devices - 1}, in ascending order"
        ascends = all(a < b for a, b in pairwise(holders))
        if not holders or not ascends or holders[0] < 0 or holders[-1] >= self.num_devices:
            raise ConfigError(field, holders, allowed)

    @classmethod
    def of(
        cls,
        rows: Sequence[Any] | NDArray[Any],
        num_devices: int,
        *,
        layers: Sequence[str] | None = None,
        method: str = "",
    ) -> Placement:
        """Build from `rows`: [E] for one layer or [L][E], each entry a device or, for copies, a list of devices.

        A list of nothing but lists is read as [L][E]: a single layer of experts that all have copies is [[...]].
        Layers without names are called "0", "1", ... Raises ConfigError, ShapeError.
        """
        plain = rows.tolist() if isinstance(rows, np.ndarray) else rows
        if not isinstance(plain, Sequence) or isinstance(plain, str) or not plain:
            raise ConfigError(
                "placement", rows, "a device for each expert, [E], or such a row per layer, [L][E]"
            )
        rows_LE = [plain] if any(map(_is_int, plain)) else plain
        if not all(isinstance(row, Sequence | np.ndarray) and not isinstance(row, str) for row in rows_LE):
            raise ConfigError("placement", rows, "rows of one kind: [E], or [L][E]")
        return cls(
            num_devices=num_devices,
            holders_LE=tuple(tuple(_holders(entry) for entry in row) for row in rows_LE),
            layers=tuple(layers) if layers is not None else tuple(map(str, range(len(rows_LE)))),
            method=method,
        )

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.layers)

    @property
    def is_replicated(self) -> bool:
        """Whether any expert has more than one copy."""
        return any(len(holders) > 1 for holders_E in self.holders_LE for holders in holders_E)

    @property
    def rows(self) -> list[list[int | list[int]]]:
        """[L][E] as data: a device, or a list of devices where the expert has copies; what `of` takes."""
        return [
            [devices[0] if len(devices) == 1 else list(devices) for devices in row] for row in self.holders_LE
        ]

    def num_experts(self, layer: int) -> int:
        """E of one layer."""
        return len(self.holders_LE[layer])

    def num_copies(self, layer: int) -> int:
        """Copies on all devices together; E where nothing is replicated."""
        return sum(map(len, self.holders_LE[layer]))

    def holds(self, layer: int) -> NDArray[np.bool_]:
        """[D, E] bool: whether the device holds a copy of the expert."""
        holds_DE = np.zeros((self.num_devices, self.num_experts(layer)), dtype=bool)
        for expert, holders in enumerate(self.holders_LE[layer]):
            holds_DE[list(holders), expert] = True
        return holds_DE

    def device_of_expert(self, layer: int) -> NDArray[np.int64]:
        """[E]: the one device of each expert. Raises ConfigError where an expert has copies."""
        for expert, holders in enumerate(self.holders_LE[layer]):
            if len(holders) > 1:
                name = self.layers[layer]
                raise ConfigError(
                    f"holders of expert {expert} in layer {name!r}",
                    holders,
                    "one device, where a single device per expert is asked for",
                )
        return np.array([holders[0] for holders in self.holders_LE[layer]], dtype=np.int64)

    def device_load(self, load_E: ArrayLike, layer: int) -> Floats:
        """[..., D] pairs per device from `load_E` [..., E] pairs per expert; every copy takes an even share.

        Raises ShapeError unless the last axis has the layer's experts.
        """
        return device_load(load_E, self.holds(layer), self.num_devices)

    def for_layers(self, num_experts_L: Sequence[int]) -> Placement:
        """This placement for a model with `num_experts_L` experts per layer; one layer is repeated for all.

        Raises ShapeError where the number of layers or of a layer's experts differs.
        """
        num_layers = len(num_experts_L)
        fitted = self
        if self.num_layers == 1 < num_layers:
            names = tuple(map(str, range(num_layers)))
            fitted = Placement(
                num_devices=self.num_devices,
                holders_LE=self.holders_LE * num_layers,
                layers=names,
                method=self.method,
            )
        if fitted.num_layers != num_layers:
            raise ShapeError(f"the placement has {self.num_layers} layers, the model has {num_layers}")
        for layer, num_experts in enumerate(num_experts_L):
            if fitted.num_experts(layer) != num_experts:
                raise ShapeError(
                    f"layer {fitted.layers[layer]!r} of the placement has {fitted.num_experts(layer)} experts, "
                    f"the model's has {num_experts}"
                )
        return fitted


def _is_int(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _holders(entry: Any) -> tuple[int, ...]:
    """The devices of one entry: an integer, or a sequence of integers in any order."""
    devices = list(entry) if isinstance(entry, Sequence | np.ndarray) else [entry]
    if isinstance(entry, str) or not devices or not all(map(_is_int, devices)):
        raise ConfigError(
            "device of an expert", entry, "a device number, or a list of different device numbers"
        )
    return tuple(sorted(int(device) for device in devices))
