"""RoutingContext: what a policy must know about a batch besides its scores. Shape letters: T tokens, E experts."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from evenmoe.errors import ConfigError, ShapeError

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True, eq=False)
class RoutingContext:
    """Where the tokens and experts of a batch are, and whose the tokens are.

    num_devices: expert-parallel devices, real or virtual.
    device_of_token_T: the device that each token is on; None cuts the real tokens into contiguous shares.
    device_of_expert_E: the device that holds each expert; None cuts the experts into contiguous shares.
    holds_DE: instead of device_of_expert_E where experts have copies: True where a device holds one.
    real_T: False marks padding, which is not routed, not counted and does not compete; None: all are real.
    request_of_token_T: the request each token belongs to (any integers); needed by isolation.
    image_T: True marks image tokens; needed by modality and by MACS.
    entropy_T: Shannon entropy of softmax over each token's features, in nats; needed by MACS.
    modality_E: what each expert is for: 1 visual, -1 text, 0 shared; needed by MACS.
    seed: for keep="random".

    Contiguous shares are as even as possible, see `contiguous_split`. An explicit map may leave a device empty.
    Raises ConfigError for values out of range and ShapeError for maps that are not vectors of one length.
    """

    num_devices: int = 1
    device_of_token_T: Tensor | None = None
    device_of_expert_E: Tensor | None = None
    holds_DE: Tensor | None = None
    real_T: Tensor | None = None
    request_of_token_T: Tensor | None = None
    image_T: Tensor | None = None
    entropy_T: Tensor | None = None
    modality_E: Tensor | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check_integer("num_devices", self.num_devices, least=1)
        _check_integer("seed", self.seed, least=None)
        for field in ("device_of_token_T", "device_of_expert_E", "request_of_token_T", "modality_E"):
            _check_vector(field, getattr(self, field), _INTEGERS, "integers")
        for field in ("real_T", "image_T"):
            _check_vector(field, getattr(self, field), (torch.bool,), "bool")
        _check_vector("entropy_T", self.entropy_T, _FLOATS, "floating-point numbers")
        if self.modality_E is not None and bool((self.modality_E.abs() > 1).any()):
            raise ConfigError("modality_E", self.modality_E.tolist(), "of entries 1, -1 or 0")
        _check_devices("device_of_expert_E", self.device_of_expert_E, self.num_devices)
        self._check_holders()
        # A padding token's device is never looked at, so it may be anything.
        devices_T, real_T = self.device_of_token_T, self.real_T
        if devices_T is not None and real_T is not None and devices_T.shape == real_T.shape:
            devices_T = devices_T[real_T]
        _check_devices("device_of_token_T", devices_T, self.num_devices)

    def _check_holders(self) -> None:
        if self.holds_DE is None:
            return
        if self.device_of_expert_E is not None:
            raise ConfigError("holds_DE", "a tensor", "None where device_of_expert_E is given")
        if not isinstance(self.holds_DE, Tensor) or self.holds_DE.dtype != torch.bool:
            raise ConfigError(
                "holds_DE", getattr(self.holds_DE, "dtype", self.holds_DE), "a bool tensor, or None"
            )
        if self.holds_DE.dim() != 2 or self.holds_DE.shape[0] != self.num_devices:
            raise ShapeError(
                f"holds_DE must be [{self.num_devices} devices, experts], got shape {tuple(self.holds_DE.shape)}"
            )
        if not bool(self.holds_DE.any(0).all()):
            expert = int(self.holds_DE.any(0).logical_not().nonzero()[0])
            raise ConfigError(
                "holds_DE", f"no device for expert {expert}", "at least one device for every expert"
            )

    def check_shapes(self, num_tokens: int, num_experts: int) -> None:
        """Raise ShapeError unless every map fits scores of [num_tokens, num_experts]."""
        for field in ("device_of_token_T", "real_T", "request_of_token_T", "image_T", "entropy_T"):
            _check_length(field, getattr(self, field), num_tokens, "tokens")
        for field in ("device_of_expert_E", "modality_E"):
            _check_length(field, getattr(self, field), num_experts, "experts")
        if self.holds_DE is not None and self.holds_DE.shape[1] != num_experts:
            raise ShapeError(f"holds_DE has {self.holds_DE.shape[1]} experts, the scores have {num_experts}")
        if self.device_of_expert_E is None and self.holds_DE is None and self.num_devices > num_experts:
            raise ConfigError(
                "num_devices",
                self.num_devices,
                f"at most the {num_experts} experts, unless device_of_expert_E is given",
            )


def contiguous_split(n: int, parts: int) -> Tensor:
    """Return [n]: the part of each of n items cut into contiguous parts, the first n mod parts one larger."""
    _check_integer("n", n, least=0)
    _check_integer("parts", parts, least=1)
    small, larger = divmod(n, parts)
    sizes = torch.tensor([small + 1] * larger + [small] * (parts - larger))
    return torch.repeat_interleave(sizes, output_size=n)


def _check_integer(field: str, value: object, least: int | None) -> None:
    if isinstance(value, Integral) and not isinstance(value, bool) and (least is None or int(value) >= least):
        return
    raise ConfigError(field, value, "an integer" if least is None else f"an integer of at least {least}")


def _check_vector(field: str, value: object, dtypes: tuple[torch.dtype, ...], kind: str) -> None:
    if value is None:
        return
    if not isinstance(value, Tensor):
        raise ConfigError(field, value, f"a tensor of {kind}, or None")
    if value.dtype not in dtypes:
        raise ConfigError(field, value.dtype, f"a tensor of {kind}, or None")
    if value.dim() != 1:
        raise ShapeError(f"{field} must have one dimension, got shape {tuple(value.shape)}")


def _check_length(field: str, value: Tensor | None, length: int, noun: str) -> None:
    if value is not None and value.shape[0] != length:
        raise ShapeError(f"{field} has {value.shape[0]} entries for {length} {noun}")


def _check_devices(field: str, devices: Tensor | None, num_devices: int) -> None:
    if devices is None or devices.numel() == 0:
        return
    low, high = (int(value) for value in devices.aminmax())
    if low < 0 or high >= num_devices:
        raise ConfigError(field, low if low < 0 else high, f"a device from 0 to {num_devices - 1}")
