"""Slow, obvious versions of what attaching does, and small helpers for its tests."""

from __future__ import annotations

import math
from contextlib import contextmanager

import torch

from evenmoe.models.sites import find_sites
from evenmoe.models.tiny.build import tiny_model

__all__ = [
    "forward",
    "hooks_on",
    "ids_of",
    "rows_given",
    "state_of",
    "tiny_model",
    "watch",
    "weight_zero_run",
]

SCORES = {
    "softmax": lambda row: [math.exp(z - max(row)) / sum(math.exp(y - max(row)) for y in row) for z in row],
    "sigmoid": lambda row: [1 / (1 + math.exp(-z)) for z in row],
    "sqrt_softplus": lambda row: [math.sqrt(math.log1p(math.exp(z))) for z in row],
    "identity": lambda row: list(row),
}


def ids_of(rows=2, length=48, seed=0):
    return torch.randint(10, 100, (rows, length), generator=torch.Generator().manual_seed(seed))


def forward(model, ids, **kwargs):
    """The model's main output; the global generator is fixed, since diffusion_gemma draws its canvas."""
    torch.manual_seed(1)
    with torch.no_grad():
        out = model(input_ids=ids, **kwargs)
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


def hooks_on(model):
    """Every hook on any module, of any kind."""
    kinds = [name for name in vars(torch.nn.Module()) if "hooks" in name]
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def state_of(model):
    """The names of everything set on any module."""
    return {name: sorted(vars(module)) for name, module in model.named_modules()}


@contextmanager
def watch(attached):
    """Collect the LayerStep of every call."""
    steps = []
    with attached.observed(steps.append):
        yield steps


@contextmanager
def rows_given(model):
    """Count the rows that each expert really is given: collects, per call, a list of counts by expert."""
    calls, handles = [], []
    for site in find_sites(model):

        def count(_module, args, site=site):
            calls.append(
                torch.bincount(args[1].flatten()[args[2].flatten() != 0], minlength=site.num_experts).tolist()
            )

        handles.append(site.experts.register_forward_pre_hook(count))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def slow_weights(kept, chosen, logits, weights, score, renormalise, scale=None):
    """Weights of one token's experts by the book: {expert: weight}."""
    s = SCORES[score](logits)
    unit = [v * (scale[e] if scale is not None else 1.0) for e, v in enumerate(s)]
    best = max(chosen, key=lambda e: unit[e])
    result = {e: weights[e] if e in chosen else weights[best] * unit[e] / unit[best] for e in kept}
    if renormalise and kept != set(chosen):
        before, after = sum(s[e] for e in chosen), sum(s[e] for e in kept)
        result = {e: w * before / after for e, w in result.items()}
    return result


@contextmanager
def weight_zero_run(model, steps, score, renormalise):
    """Give every expert to every token, at the slow weights of what `steps` say was kept: no packing involved."""
    handles, seen, by_layer = [], {}, {step.layer: step for step in steps}
    for layer, site in enumerate(find_sites(model)):
        total = site.num_experts + site.num_free_experts
        scale = getattr(site.router, "per_expert_scale", None)

        def remember(_module, _args, out, layer=layer):
            seen[layer] = (out[0] if isinstance(out, tuple) else out).double()

        def dense(_module, args, layer=layer, total=total, scale=scale):
            hidden, index, weight = args
            kept_TE = by_layer[layer].kept_TE
            table = torch.zeros(index.shape[0], total, dtype=torch.float64)
            for t in range(index.shape[0]):
                slots = {int(e): float(w) for e, w in zip(index[t], weight[t], strict=True) if w != 0}
                free = {e for e in slots if e >= kept_TE.shape[1]}
                kept = set(kept_TE[t].nonzero().flatten().tolist()) | free
                row = seen[layer].reshape(-1, seen[layer].shape[-1])[t].tolist()
                if slots and kept:
                    for e, w in slow_weights(
                        kept, list(slots), row, slots, score, renormalise, scale
                    ).items():
                        table[t, e] = w
            return hidden, torch.arange(total).expand(index.shape[0], total), table.to(weight.dtype)

        handles.append(site.router.register_forward_hook(remember))
        handles.append(site.experts.register_forward_pre_hook(dense))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
