"""Session: the state that the hooks of one attachment share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.loads.modality import KINDS, split_tag
from evenmoe.models.batch import Batch, rows_to_devices
from evenmoe.models.delivery import Parallel
from evenmoe.models.recording import LoadRecorder
from evenmoe.models.settings import AttachSettings
from evenmoe.models.stopwatch import NO_STOPWATCH, Stopwatch
from evenmoe.models.tokens import Tokens, tokens_of, unknown_tokens
from evenmoe.placement import Placement
from evenmoe.routing import ExpertModality, RoutingContext
from evenmoe.routing.policy import Policy


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerStep:
    """One MoE layer's part of one forward, as given to observers.

    scores_TE and chosen_TE are what the policy was given, kept_TE what runs; `applied` is False where the decode rule
    let the call pass.
    """

    layer: int
    name: str
    scores_TE: Tensor
    chosen_TE: Tensor
    kept_TE: Tensor
    tokens: Tokens
    applied: bool


@dataclass(eq=False)
class _Call:
    module: nn.Module
    batch: Batch | None
    tokens: dict[tuple[int, torch.device], Tokens] = field(default_factory=dict)


class Session:
    """Which forward is running, whose tokens it has, where they are, and what observes them."""

    def __init__(
        self,
        policy: Policy,
        settings: AttachSettings,
        recorder: LoadRecorder,
        parallel: Parallel | None = None,
        expert_modality: ExpertModality | None = None,
    ) -> None:
        self.policy, self.settings, self.recorder, self.parallel = policy, settings, recorder, parallel
        self.expert_modality = expert_modality
        self.stopwatch: Stopwatch = NO_STOPWATCH
        self._experts_L = [
            _expert_map(recorder.placement, layer) for layer in range(recorder.placement.num_layers)
        ]
        self._modality_L = (
            None
            if expert_modality is None
            else [torch.tensor(expert_modality.signs(layer)) for layer in range(len(expert_modality.rows))]
        )
        self.observers: list[Callable[[LayerStep], None]] = []
        self.tags: tuple[str, ...] | None = None
        self.rows: tuple[int, ...] | None = None
        self.mask_BS: Tensor | None = None
        self.num_forwards = 0
        self._calls: list[_Call] = []

    @property
    def running(self) -> bool:
        return bool(self._calls)

    def enter(self, module: nn.Module, batch: Batch | None) -> None:
        """Note that a module's forward begins."""
        if not self._calls:
            self.num_forwards += 1
        self._calls.append(_Call(module, batch))

    def forget(self) -> None:
        """Drop calls that never ended."""
        self._calls.clear()

    def leave(self, module: nn.Module) -> None:
        """Note that a module's forward ended, however it ended."""
        known = [call.module for call in self._calls]
        if module in known:
            del self._calls[known.index(module) :]

    def tokens(self, num_tokens: int, subset: Tensor | None, device: torch.device) -> Tokens:
        """Return the tokens of a layer's call: those of the running forward, or what is known of them."""
        if subset is not None:
            full = self._full_tokens(None, device)
            return unknown_tokens(num_tokens) if full is None else full.subset(subset)
        full = self._full_tokens(num_tokens, device)
        if full is None and (self.tags is not None or self.rows is not None or self._splits):
            raise ShapeError(
                f"{num_tokens} tokens do not belong to a batch of requests, so they have no tags or devices"
            )
        return unknown_tokens(num_tokens) if full is None else full

    def _full_tokens(self, num_tokens: int | None, device: torch.device) -> Tokens | None:
        """Return the tokens of the running call that has as many as asked for (None: of the outermost call)."""
        calls = [(call, call.batch) for call in self._calls if call.batch is not None]
        exact = [pair for pair in calls if num_tokens in (None, pair[1].num_tokens)]
        alike = [pair for pair in calls if num_tokens is not None and num_tokens % pair[1].num_rows == 0]
        for call, batch in (exact + alike)[:1]:
            key = (num_tokens or batch.num_tokens, device)
            if key not in call.tokens:
                call.tokens[key] = tokens_of(
                    batch, key[0], self._device_of_row(batch), self._groups_of_row(batch), device
                )
            return call.tokens[key]
        return None

    def _device_of_row(self, batch: Batch) -> Tensor | None:
        if self.rows is not None:
            if len(self.rows) != batch.num_rows:
                raise ShapeError(
                    f"devices are assigned to {len(self.rows)} rows, the batch has {batch.num_rows}"
                )
            return torch.tensor(self.rows)
        if self.settings.num_devices == 1 or self.own_device is not None:
            return None
        known = [call.batch for call in self._calls if call.batch is not None]
        alike = [other.occupied_B for other in known if other.num_rows == batch.num_rows]
        occupied_B = next((rows for rows in (batch.occupied_B, *alike) if rows is not None), None)
        occupied_B = None if occupied_B is None else occupied_B.cpu()
        return rows_to_devices(batch.num_rows, occupied_B, self.settings.num_devices)

    @property
    def _splits(self) -> bool:
        return self.settings.split == "modality"

    def _groups_of_row(self, batch: Batch) -> Tensor | None:
        """Return [B, 1], the group that each row is counted in, or [B, 2], those of its text and its image tokens."""
        if self.tags is None and not self._splits:
            return None
        tags: Sequence[str | None] = [None] * batch.num_rows if self.tags is None else self.tags
        if len(tags) != batch.num_rows:
            raise ShapeError(f"{len(tags)} tags for a batch of {batch.num_rows} rows")
        names = [[split_tag(tag, kind) for kind in KINDS] if self._splits else [str(tag)] for tag in tags]
        return torch.tensor([[self.recorder.group_of(name) for name in row] for row in names])

    @property
    def own_device(self) -> int | None:
        """The device that all tokens of this process are on; None where its rows are shared out over the devices."""
        return self.parallel.rank if self.parallel is not None and self.parallel.form == "data" else None

    @property
    def _num_capacities(self) -> int:
        """Into how many parts the policy cuts a batch to count capacity: its source devices, or one."""
        return self.settings.num_devices if getattr(self.policy, "scope", "global") == "local" else 1

    @property
    def _isolates(self) -> bool:
        """Whether the policy counts capacity for each request, so that other requests may not decide when it acts."""
        return getattr(self.policy, "isolation", "batch") != "batch"

    def acting(self, tokens: Tokens, num_experts: int, top_k: int) -> Tokens:
        """Return the tokens that the policy is about, the others as if padding; all of them are the same object.

        Left out are those of the other phase where both share a call, and under isolation requests with too few tokens.
        """
        if self.settings.phases != "both":
            tokens = tokens.of_phase(decode=self.settings.phases == "decode")
        if self._isolates and self._is_phase(tokens.decode):
            least = self.settings.min_tokens or _even_tokens(num_experts, top_k)
            tokens = tokens.of_rows_with(least)
        return tokens

    def applies(self, decode: bool, num_tokens: int, num_experts: int, top_k: int) -> bool:
        """Return whether the policy acts on a call: its phase is selected and it has enough real tokens."""
        least = self.settings.min_tokens or _even_tokens(num_experts, top_k) * self._num_capacities
        return self._is_phase(decode) and num_tokens >= (1 if self._isolates else least)

    def _is_phase(self, decode: bool) -> bool:
        return self.settings.phases in ("both", "decode" if decode else "prefill")

    def context(self, layer: int, tokens: Tokens, entropy_T: Tensor | None = None) -> RoutingContext:
        """Return the policy's context for one layer's call. Each forward and layer has its own seed.

        Raises ShapeError where the policy must know the image tokens and the call does not tell them.
        """
        if self.policy.needs_images and tokens.image_T is None:
            raise ShapeError(
                f"which of {tokens.num_tokens} tokens are image tokens is not known, as {self.policy.name} needs: "
                "give the model input_ids, or mm_token_type_ids"
            )
        device_T = tokens.device_T
        if self.own_device is not None:
            device_T = torch.full((tokens.num_tokens,), self.own_device)
        device_of_expert_E, holds_DE = self._experts_L[layer]
        return RoutingContext(
            num_devices=self.settings.num_devices,
            device_of_token_T=device_T,
            device_of_expert_E=device_of_expert_E,
            holds_DE=holds_DE,
            real_T=tokens.real_T,
            request_of_token_T=tokens.row_T,
            image_T=tokens.image_T,
            entropy_T=entropy_T,
            modality_E=None if self._modality_L is None else self._modality_L[layer],
            seed=self.settings.seed + 1_000_003 * self.num_forwards + 7_919 * layer,
        )

    def check_rows(self, rows: Sequence[int]) -> tuple[int, ...]:
        """Return row devices as a tuple; raises ConfigError for one out of range, or where they cannot be chosen."""
        if self.own_device is not None:
            raise ConfigError(
                "rows", list(rows), f"none: every row of this process is on device {self.own_device}"
            )
        for device in rows:
            if not isinstance(device, int) or not 0 <= device < self.settings.num_devices:
                raise ConfigError(
                    "rows", device, f"a device from 0 to num_devices - 1 = {self.settings.num_devices - 1}"
                )
        return tuple(rows)


def _even_tokens(num_experts: int, top_k: int) -> int:
    """Return the number of tokens from which on the even share of an expert is at least one."""
    return -(-num_experts // top_k)


def _expert_map(placement: Placement, layer: int) -> tuple[Tensor | None, Tensor | None]:
    """Return what a RoutingContext takes of one layer: device_of_expert_E, or holds_DE where experts have copies."""
    holds_DE = torch.from_numpy(placement.holds(layer))
    if placement.num_copies(layer) > placement.num_experts(layer):
        return None, holds_DE
    return torch.from_numpy(placement.device_of_expert(layer)), None
