"""Machine: what the phases of an MoE layer cost on one kind of device and link, measured or from a datasheet."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from numpy.typing import ArrayLike
from pydantic import Field, ValidationError, model_validator

from evenmoe.costs.parts import (
    Count,
    ExpertCurve,
    Floats,
    GateCost,
    HeldOut,
    Part,
    PolicyCost,
    Roofline,
    Time,
    TransferCost,
)
from evenmoe.costs.shape import Dtype, LayerShape
from evenmoe.errors import ConfigError, FileFormatError

FORMAT = "evenmoe.machine"


class Machine(Part):
    """The costs of one rank of a group; `docs/costs.md` has the schema.

    experts, gates: measured, one entry per size and dtype; where there is none, `roofline` serves, for any size.
    expert_call_ms: fixed cost of one call of the experts, beside the cost of each expert that it touches.
    policies: by name; pack, unpack: gathering the rows of pairs before dispatch, and summing them after combine, by the
    bytes of the rows; link: one exchange of the group, by the most bytes that any rank sends or receives, None where
    there was one rank; dispatch_exchanges_ms: what dispatch exchanges beside the rows (counts); barrier_ms: a barrier.
    """

    format: Literal["evenmoe.machine"] = "evenmoe.machine"
    version: Literal[1] = 1
    name: str
    source: Literal["measured", "datasheet"]
    date: str
    notes: tuple[str, ...] = ()
    """Where the numbers come from, and what is assumed."""
    versions: dict[str, str] = Field(default_factory=dict)
    ranks: Count
    """Ranks of the group that `link` is of; when measured, all of them were at work at the same time."""
    threads: Count = 1
    expert_call_ms: Time
    experts: tuple[ExpertCurve, ...] = ()
    roofline: Roofline | None = None
    gates: tuple[GateCost, ...] = ()
    policies: Annotated[dict[str, PolicyCost], Field(min_length=1)]
    pack: TransferCost
    unpack: TransferCost
    link: TransferCost | None = None
    dispatch_exchanges_ms: Time = 0.0
    barrier_ms: Time = 0.0
    heldout: HeldOut | None = None

    @model_validator(mode="after")
    def _can_predict(self) -> Machine:
        if self.source == "datasheet" and self.roofline is None:
            raise ValueError("a machine of source 'datasheet' needs a roofline")
        if self.source == "datasheet" and not self.notes:
            raise ValueError("a machine of source 'datasheet' needs notes that name the datasheet")
        if self.source == "measured" and not self.experts:
            raise ValueError("a machine of source 'measured' needs experts")
        if self.source == "datasheet" and (self.experts or self.gates or self.heldout):
            raise ValueError("experts, gates and heldout are measured: source is 'datasheet'")
        return self

    def expert_ms(self, hidden: int, intermediate: int, dtype: Dtype, tokens: ArrayLike) -> Floats:
        """Return the time in ms of one expert of these sizes for `tokens` [...], of any shape; 0 for 0 tokens.

        Raises ConfigError where the size or dtype was neither measured nor has a roofline.
        """
        for curve in self.experts:
            if (curve.hidden, curve.intermediate, curve.dtype) == (hidden, intermediate, dtype):
                return curve.expert_ms(tokens)
        roofline = self._roofline(f"hidden x intermediate {hidden} x {intermediate}", dtype, self.experts)
        return roofline.expert_ms(hidden, intermediate, dtype, tokens)

    def gate_ms(self, shape: LayerShape, dtype: Dtype, tokens: ArrayLike) -> Floats:
        """Return the time in ms of the router with its top-k for `tokens` [...]. Raises as `expert_ms` does."""
        sizes = (shape.hidden, shape.num_experts, shape.top_k, dtype)
        for gate in self.gates:
            if (gate.hidden, gate.num_experts, gate.top_k, gate.dtype) == sizes:
                return gate.time_ms(tokens)
        roofline = self._roofline(f"gate {shape.hidden} x {shape.num_experts}", dtype, self.gates)
        return roofline.gate_ms(shape, dtype, tokens)

    def policy_ms(self, policy: str, pairs: ArrayLike) -> Floats:
        """Return the time in ms of a policy's decision on `pairs` [...] chosen pairs.

        Raises ConfigError for a policy whose cost is not known here.
        """
        if policy not in self.policies:
            raise ConfigError(
                "policy", policy, f"one that {self.name} has a cost for: {_names(self.policies)}"
            )
        return self.policies[policy].time_ms(pairs)

    def _roofline(self, wanted: str, dtype: str, measured: tuple[ExpertCurve | GateCost, ...]) -> Roofline:
        if self.roofline is None:
            sizes = "; ".join(_size(part) for part in measured) or "none"
            raise ConfigError(
                "shape", f"{wanted}, {dtype}", f"a size that {self.name} has been measured for: {sizes}"
            )
        if dtype not in self.roofline.flops_per_s:
            raise ConfigError("dtype", dtype, f"one of {_names(self.roofline.flops_per_s)} on {self.name}")
        return self.roofline

    def write(self, path: Path) -> Path:
        """Write as JSON, replacing the file in one step; the same machine gives the same bytes."""
        partial = path.with_name(path.name + ".partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        body = self.model_dump(mode="json")
        partial.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)
        return path


def machine_names() -> list[str]:
    """Return the names of the machines that ship, all of them from datasheets."""
    folder = resources.files("evenmoe.costs") / "machines"
    return sorted(file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json"))


def read_machine(name_or_file: str | Path) -> Machine:
    """Return a machine that ships (`machine_names`), or the one in a file that `Machine.write` made or a person wrote.

    Raises ConfigError for an unknown name, FileNotFoundError, and FileFormatError that names the first wrong key.
    """
    if str(name_or_file) in machine_names():
        shipped = resources.files("evenmoe.costs") / "machines" / f"{name_or_file}.json"
        return _parse(shipped.read_bytes(), str(name_or_file))
    path = Path(name_or_file)
    if not path.exists() and path.suffix != ".json":
        raise ConfigError("machine", str(name_or_file), f"one of {_names(machine_names())}, or a JSON file")
    return _parse(path.read_bytes(), str(path))


def _parse(text: bytes, where: str) -> Machine:
    try:
        body: Any = json.loads(text)
    except ValueError as error:
        raise FileFormatError(f"{where} is not JSON: {error}") from error
    found = body.get("format") if isinstance(body, dict) else None
    if found != FORMAT:
        raise FileFormatError(f'{where} is not a machine file: format = {found!r}, not "{FORMAT}"')
    try:
        return Machine.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole"
        reason = first["msg"].removeprefix("Value error, ")
        raise FileFormatError(
            f"{where}: {key} = {str(first['input'])[:80]!r} is not allowed: {reason}"
        ) from error


def _size(part: ExpertCurve | GateCost) -> str:
    if isinstance(part, ExpertCurve):
        return f"{part.hidden} x {part.intermediate}, {part.dtype}"
    return f"{part.hidden} x {part.num_experts} (top-{part.top_k}), {part.dtype}"


def _names(names: Any) -> str:
    return ", ".join(sorted(names))
