"""View: what of a load must be even: the loads of experts, or of the devices that hold them.

Shape letters: L layers, E experts, X = L * E, D devices, V entries of what is seen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenmoe.errors import ConfigError
from evenmoe.placement import Placement, read_placement
from evenmoe.serving.admission.shape import Shape
from evenmoe.serving.config import RoutingConfig

Floats = NDArray[np.float64]


class View:
    """Loads of experts, layer after layer; with more than one device those of the devices.

    Raises FileNotFoundError, FileFormatError, ShapeError and ConfigError for a placement that does not fit.
    """

    def __init__(self, shape: Shape, routing: RoutingConfig) -> None:
        self.num_layers = shape.num_layers
        self._shape = shape
        self._share_LED: Floats | None = None
        if routing.num_devices > 1:
            placement = _placement(routing, shape)
            holds_LDE = np.array([placement.holds(layer) for layer in range(shape.num_layers)], dtype=float)
            self._share_LED = np.ascontiguousarray(
                (holds_LDE / holds_LDE.sum(1, keepdims=True)).swapaxes(1, 2)
            )

    @property
    def length(self) -> int:
        """V."""
        return self._shape.num_entries if self._share_LED is None else self._share_LED[:, 0].size

    def __call__(self, load_X: NDArray[np.floating]) -> NDArray[np.floating]:
        """[V]: what is seen of a load [X]; a copy of an expert takes an even share."""
        if self._share_LED is None:
            return load_X
        load_L1E = load_X.reshape(self._shape.num_layers, 1, self._shape.num_experts)
        return np.asarray(np.matmul(load_L1E, self._share_LED).reshape(-1))


def _placement(routing: RoutingConfig, shape: Shape) -> Placement:
    if routing.placement is None:
        if routing.num_devices > shape.num_experts:
            raise ConfigError(
                "evenmoe.routing.num_devices",
                routing.num_devices,
                f"at most the {shape.num_experts} experts, unless placement is given",
            )
        shares = np.array_split(np.arange(shape.num_experts), routing.num_devices)
        row = np.repeat(np.arange(routing.num_devices), [len(share) for share in shares])
        placement = Placement.of(row, routing.num_devices, method="contiguous")
    else:
        placement = read_placement(routing.placement)
        if placement.num_devices != routing.num_devices:
            raise ConfigError(
                "evenmoe.routing.num_devices",
                routing.num_devices,
                f"{placement.num_devices}, which {routing.placement} is for",
            )
    return placement.for_layers([shape.num_experts] * shape.num_layers)
