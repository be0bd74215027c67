"""The request log: which experts every token of every request chose and kept, step by step. For experiments alone.

Written where the configuration says `metrics.per_request_loads = true`, and nowhere else: it is nearly the text itself.
Shape letters: T tokens, E experts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from evenmoe.errors import FileFormatError
from evenmoe.models.session import LayerStep
from evenmoe.serving.vllm.steps import Step, is_new_token

NAME = "requests.jsonl"
"""The log's name in the spool."""
Experts = list[list[int]]
"""The experts of each token, ascending."""


@dataclass(frozen=True, kw_only=True)
class RowRouting:
    """One request's part of one step: a line of the log.

    step: forwards of real requests, from 1. row: its place in the step. context: tokens in the KV cache before;
    tokens: in this step. acted: whether the policy acted on the step, by layer.
    chosen: by layer, the experts of each token that the model chose; kept: those that ran.
    """

    step: int
    row: int
    context: int
    tokens: int
    phase: str
    acted: list[bool]
    chosen: list[Experts]
    kept: list[Experts]


class RequestLog:
    """Collects the layers of a step and appends its lines to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._layers: list[LayerStep] = []
        self._num_steps = 0

    def observe(self, layer: LayerStep) -> None:
        """One more layer of the running step has been routed."""
        self._layers.append(layer)

    def step_done(self, step: Step) -> None:
        """Write the step's lines, and wait for the next one."""
        self._num_steps += 1
        layers, self._layers = self._layers, []
        chosen_L = [_experts(layer.chosen_TE) for layer in layers]
        kept_L = [_experts(layer.kept_TE) for layer in layers]
        lines, end = [], 0
        for row, (context, length) in enumerate(zip(step.context_B, step.length_B, strict=True)):
            start, end = end, end + length
            chosen = [experts[start:end] for experts in chosen_L]
            kept = [experts[start:end] for experts in kept_L]
            line = {
                "step": self._num_steps,
                "row": row,
                "context": context,
                "tokens": length,
                "phase": "decode" if is_new_token(context, length) else "prefill",
                "acted": [layer.applied for layer in layers],
                "chosen": chosen,
                "kept": [None if some == all_ else some for some, all_ in zip(kept, chosen, strict=True)],
            }
            lines.append(json.dumps(line, separators=(",", ":")) + "\n")
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(lines)

    def forget(self) -> None:
        """Drop the layers of a step that did not come to its end."""
        self._layers.clear()


def read_request_log(path: str | Path) -> list[RowRouting]:
    """Return the lines of a log, oldest first; one that is being written still is left out.

    Raises FileNotFoundError where there is none, FileFormatError for a file that is no log.
    """
    text = Path(path).read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    try:
        return [_row(json.loads(line)) for line in whole.splitlines()]
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{path} is not a request log: {error}") from error


def _row(line: dict[str, Any]) -> RowRouting:
    kept = [
        some if some is not None else all_ for some, all_ in zip(line["kept"], line["chosen"], strict=True)
    ]
    return RowRouting(**(line | {"kept": kept}))


def _experts(pairs_TE: Tensor) -> Sequence[list[int]]:
    """Return [T]: the experts of each token, ascending."""
    experts: list[list[int]] = [[] for _ in range(pairs_TE.shape[0])]
    for token, expert in pairs_TE.nonzero().tolist():
        experts[token].append(expert)
    return experts
