"""Measuring on held-out text: loss, accuracy, bits per byte, and how uneven the experts are."""

import math
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import OlmoeForCausalLM

from tools.text_model.tokenizer import TokenIds

_ROWS_PER_FORWARD = 8


def held_out_rows(stream: TokenIds, length: int, num_rows: int) -> torch.Tensor:
    """The first sequences of `length` + 1 ids of a stream, each starting with the last id of the one before."""
    return torch.from_numpy(stream[: num_rows * length + 1]).unfold(0, length + 1, length)


def equal_rows(streams: dict[str, TokenIds], length: int, max_rows: int | None = None) -> int:
    """As many sequences as every domain has, so that each domain weighs the same."""
    num_rows = min((len(stream) - 1) // length for stream in streams.values())
    return num_rows if max_rows is None else min(num_rows, max_rows)


@torch.inference_mode()
def measure_quality(
    model: OlmoeForCausalLM,
    streams: dict[str, TokenIds],
    length: int,
    max_rows: int | None = None,
    bytes_of_token: torch.Tensor | None = None,
) -> dict[str, dict[str, float]]:
    """Loss (nats per token), next-token accuracy and, given `bytes_of_token` [vocabulary], bits per byte.

    Per domain, and `all` over the tokens of all domains, equally many of each. Each sequence starts with an
    empty context.
    """
    totals: dict[str, dict[str, float]] = {}
    num_rows = equal_rows(streams, length, max_rows)
    was_training = model.training
    model.eval()
    for domain, stream in streams.items():
        total = {"tokens": 0.0, "nats": 0.0, "correct": 0.0, "bytes": 0.0}
        for rows in torch.split(held_out_rows(stream, length, num_rows), _ROWS_PER_FORWARD):
            targets = rows[:, 1:].flatten()
            logits = model(input_ids=rows[:, :-1], use_cache=False).logits.flatten(0, 1).float()
            total["tokens"] += len(targets)
            total["nats"] += cross_entropy(logits, targets, reduction="sum").item()
            total["correct"] += (logits.argmax(-1) == targets).sum().item()
            if bytes_of_token is not None:
                total["bytes"] += bytes_of_token[targets].sum().item()
        totals[domain] = total
    model.train(was_training)
    keys = ("tokens", "nats", "correct", "bytes")
    totals["all"] = {key: sum(total[key] for total in totals.values()) for key in keys}
    return {domain: _summary(total) for domain, total in totals.items()}


def _summary(total: dict[str, float]) -> dict[str, float]:
    summary = {
        "tokens": total["tokens"],
        "loss": total["nats"] / total["tokens"],
        "accuracy": total["correct"] / total["tokens"],
    }
    if total["bytes"]:
        summary["bits_per_byte"] = total["nats"] / math.log(2) / total["bytes"]
    return summary


@torch.inference_mode()
def measure_imbalance(
    model: OlmoeForCausalLM, streams: dict[str, TokenIds], length: int
) -> dict[str, list[float]]:
    """Peak expert's load over the mean, per layer: for each domain's held-out tokens, and `mixed` for all."""
    num_experts, num_chosen = model.config.num_experts, model.config.num_experts_per_tok
    num_rows = equal_rows(streams, length)
    counts: dict[str, torch.Tensor] = {}
    for domain, stream in streams.items():
        counts[domain] = torch.zeros(model.config.num_hidden_layers, num_experts)
        for rows in torch.split(held_out_rows(stream, length, num_rows), _ROWS_PER_FORWARD):
            out: Any = model(input_ids=rows[:, :-1], use_cache=False, output_router_logits=True)
            for layer, logits_TE in enumerate(out.router_logits):
                chosen_TK = logits_TE.topk(num_chosen, dim=-1).indices
                counts[domain][layer] += torch.bincount(chosen_TK.flatten(), minlength=num_experts)
    counts["mixed"] = torch.stack(list(counts.values())).sum(0)
    return {domain: (count.max(-1).values / count.mean(-1)).tolist() for domain, count in counts.items()}
