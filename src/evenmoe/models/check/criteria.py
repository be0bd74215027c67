"""The criteria, one function each: return what was seen, or raise CheckFailure or NotApplicable.

Shape letters: T tokens, E experts, K top-k, D devices.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from evenmoe.errors import UnsupportedModelError
from evenmoe.models.attach import attach
from evenmoe.models.catalog import CATALOG
from evenmoe.models.check.case import (
    BATCH,
    LENGTH,
    NUM_DEVICES,
    TOLERANCE,
    Case,
    difference,
    loads_per_device,
    logits_of,
    num_hooks,
    token_devices,
)
from evenmoe.models.check.modalities import check_modality_policies
from evenmoe.models.check.reference import recorded_calls, zeroed
from evenmoe.models.check.result import CheckFailure, NotApplicable
from evenmoe.models.session import LayerStep
from evenmoe.models.sites import find_sites
from evenmoe.models.tiny import IMAGE_FORMATS, tiny_inputs
from evenmoe.models.tiny.defaults import IMAGE_ID
from evenmoe.routing import Baseline, ExpandedDrop, Fill, Policy, TokenDrop

IMPLEMENTATIONS = ("eager", "grouped_mm", "batched_mm")
_RENORMALISED = {"always": "top-k", "never": "none", "joint": "joint"}
NOT_GENERATING = ("diffusion_gemma", "openai_privacy_filter")
PAD_COLUMNS = 5
IMAGE_BATCH, TEXT_LENGTH = 4, 12


def infinite_gamma(case: Case) -> str:
    """With gamma = inf the logits are bitwise the plain model's, and every MoE layer is seen."""
    logits, steps = case.attached_logits(TokenDrop(gamma=math.inf))
    case.require_equal(logits, case.plain, "gamma = inf")
    return f"{_check_all_seen(case, steps)} MoE layers"


def stated_scores(case: Case) -> str:
    """The score function and normalisation stated for the architecture are confirmed by every router."""
    stated = CATALOG[case.model_type].architecture
    with attach(case.model, Baseline()) as attached:
        layers = attached.layers
    for layer in layers:
        if not layer.checked:
            raise CheckFailure(f"{layer.name}: the router could not be asked before the first forward")
        if stated.score != "configured" and layer.score != stated.score:
            raise CheckFailure(f"{layer.name}: stated is {stated.score}, confirmed is {layer.score}")
        if stated.renormalise != "flag" and layer.renormalise != _RENORMALISED[stated.renormalise]:
            raise CheckFailure(
                f"{layer.name}: stated is {stated.renormalise}, confirmed is {layer.renormalise}"
            )
    return ", ".join(sorted({f"{layer.score}, normalised: {layer.renormalise}" for layer in layers}))


def capacity(case: Case) -> str:
    """At gamma 1 no expert gets more than C = ceil(T * K / E) pairs from any device, and pairs are dropped."""
    _, steps = case.attached_logits(TokenDrop(gamma=1.0))
    before, after = _check_loads(case, steps)
    if after >= before:
        raise CheckFailure(f"nothing was dropped of {before} pairs, so nothing was shown")
    if any(bool((step.kept_TE & ~step.chosen_TE).any()) for step in steps):
        raise CheckFailure("Token Drop kept a pair that the router had not chosen")
    return f"kept {after} of {before} pairs"


def computed(case: Case) -> str:
    """The experts are called with exactly the kept pairs: what is dropped costs nothing."""
    calls: list[tuple[str, Tensor]] = []
    sites = [site for site in find_sites(case.model) if site.experts is not None and site.kind != "llama4"]
    if not sites:
        raise NotApplicable("its experts are not called with a list of pairs")
    with case.attached(TokenDrop(gamma=1.0)) as steps, ExitStack() as stack:
        for site in sites:
            stack.enter_context(
                recorded_calls(site, lambda name, args: calls.append((name, args[1].reshape(-1))))
            )
        logits_of(case.model, case.inputs)
    for step, (name, expert_P) in zip(steps, calls, strict=True):
        kept_E = step.kept_TE.sum(0)
        called_E = torch.bincount(expert_P, minlength=kept_E.shape[0])[: kept_E.shape[0]]
        if name != step.name or not torch.equal(called_E, kept_E):
            raise CheckFailure(
                f"{name}: the experts were called with {called_E.tolist()} pairs, kept {kept_E.tolist()}"
            )
    return ""


def reference(case: Case) -> str:
    """The result is that of the plain model with the weights of dropped pairs set to 0."""
    logits, steps = case.attached_logits(TokenDrop(gamma=1.0))
    with zeroed(case.model, steps):
        expected = logits_of(case.model, case.inputs)
    case.require_close(logits, expected, "against weight 0")
    if torch.equal(logits, case.plain):
        raise CheckFailure("dropping changed nothing")
    return ""


def substitutes(case: Case) -> str:
    """Expanded Drop and Fill keep to the capacity with true scores, or are refused where scores are not known."""
    policies: tuple[Policy, ...] = (ExpandedDrop(gamma=1.0), Fill(gamma=1.0))
    if not CATALOG[case.model_type].true_scores:
        for policy in policies:
            _check_refused(case, policy)
        return "refused, as stated"
    added = 0
    for policy in policies:
        logits, steps = case.attached_logits(policy)
        before, after = _check_loads(case, steps)
        if not bool(torch.isfinite(logits).all()):
            raise CheckFailure(f"{policy.name}: logits are not finite")
        if isinstance(policy, Fill) and after > before:
            raise CheckFailure(f"{policy.name}: {after} pairs ran of {before} asked for")
        added += sum(int((step.kept_TE & ~step.chosen_TE).sum()) for step in steps)
    if added == 0:
        raise CheckFailure("no substitute was taken, so nothing was shown")
    return f"{added} substitutes"


def padding(case: Case) -> str:
    """Padding columns change neither what real tokens run nor their logits."""
    inputs = tiny_inputs(case.model_type, BATCH, LENGTH, seed=case.seed, pad=PAD_COLUMNS)
    padded_plain = logits_of(case.model, inputs)[:, : case.plain.shape[1]]
    if (moved := difference(padded_plain, case.plain)) > TOLERANCE:
        raise NotApplicable(f"padding moves the plain model's own logits by {moved:.2g}")
    expected, steps = case.attached_logits(TokenDrop(gamma=1.0))
    logits, padded_steps = case.attached_logits(TokenDrop(gamma=1.0), inputs)
    for step, padded in zip(steps, padded_steps, strict=True):
        if not torch.equal(step.kept_TE.sum(0), padded.kept_TE.sum(0)):
            raise CheckFailure(
                f"{step.name}: loads differ with padding: {step.kept_TE.sum(0)}, {padded.kept_TE.sum(0)}"
            )
    case.require_close(logits[:, : expected.shape[1]], expected, "with padding")
    return ""


def implementations(case: Case) -> str:
    """Every experts implementation of transformers gives the same result under the policy."""
    other = Case.of(case.model_type, case.seed)
    refused, results = [], {}
    for name in IMPLEMENTATIONS:
        try:
            other.model.set_experts_implementation(name)  # type: ignore[operator]
        except (ValueError, AttributeError):
            refused.append(name)
            continue
        results[name], _ = other.attached_logits(TokenDrop(gamma=1.0))
    if not results:
        raise NotApplicable("transformers offers no choice of implementation for it")
    first, *others = results
    for name in others:
        case.require_close(results[name], results[first], f"{name} against {first}")
    return ", ".join(results) + (f"; refused by transformers: {', '.join(refused)}" if refused else "")


def images(case: Case) -> str:
    """With images too: bitwise the plain model at gamma = inf, within the capacity at gamma 1, under every modality."""
    if case.model_type not in IMAGE_FORMATS:
        raise NotApplicable("text input only")
    length = IMAGE_FORMATS[case.model_type].num_tokens + TEXT_LENGTH
    inputs = tiny_inputs(case.model_type, IMAGE_BATCH, length, seed=case.seed, images=True)
    plain = logits_of(case.model, inputs)
    logits, steps = case.attached_logits(TokenDrop(gamma=math.inf), inputs)
    case.require_equal(logits, plain, "gamma = inf with images")
    _check_all_seen(case, steps, images=True)
    _, steps = case.attached_logits(TokenDrop(gamma=1.0), inputs)
    before, after = _check_loads(case, steps)
    _check_image_tokens(steps, int((inputs["input_ids"] == IMAGE_ID).sum()))
    shown = check_modality_policies(case, inputs, plain)
    return f"kept {after} of {before} pairs; {shown}"


def generation(case: Case) -> str:
    """`generate` gives the plain model's tokens at gamma = inf, and goes through prefill and decode at gamma 1."""
    if not (hasattr(case.model, "generate") and case.model_type not in NOT_GENERATING):
        raise NotApplicable("it does not generate token by token")
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    generate: Any = case.model.generate
    with torch.inference_mode():
        plain = generate(**case.inputs, **options)
        with case.attached(TokenDrop(gamma=math.inf)):
            same = generate(**case.inputs, **options)
        with case.attached(TokenDrop(gamma=1.0)) as steps:
            generate(**case.inputs, **options)
    if not torch.equal(plain, same):
        raise CheckFailure("gamma = inf generates other tokens than the plain model")
    _check_loads(case, [step for step in steps if step.applied])
    phases = [sum(step.tokens.decode is decode for step in steps) for decode in (False, True)]
    if 0 in phases:
        raise CheckFailure(f"{phases[0]} prefill and {phases[1]} decode calls of MoE layers were seen")
    return f"{phases[0]} prefill and {phases[1]} decode calls"


def detach(case: Case) -> str:
    """After all of the above the model is bitwise the plain one, and no hook is left on it."""
    case.require_equal(logits_of(case.model, case.inputs), case.plain, "after detaching")
    if left := num_hooks(case.model):
        raise CheckFailure(f"{left} hooks were left on the model")
    return ""


def _check_all_seen(case: Case, steps: Sequence[LayerStep], images: bool = False) -> int:
    missing = {site.name for site in find_sites(case.model)} - {step.name for step in steps}
    if not images:
        missing = {name for name in missing if not name.endswith(".vision_moe")}
    if missing:
        raise CheckFailure(f"MoE layers were not seen: {', '.join(sorted(missing))}")
    return len({step.name for step in steps})


def _check_loads(case: Case, steps: Sequence[LayerStep]) -> tuple[int, int]:
    """Check every load against the capacity; return the number of pairs before and after."""
    before = after = 0
    sites = {site.name: site for site in find_sites(case.model)}
    for step in steps:
        if not step.applied:
            raise CheckFailure(f"{step.name}: the policy was not applied")
        site = sites[step.name]
        real_T = (
            torch.ones(step.kept_TE.shape[0], dtype=torch.bool)
            if step.tokens.real_T is None
            else step.tokens.real_T
        )
        tokens_D = torch.bincount(token_devices(step)[real_T], minlength=NUM_DEVICES)
        capacity_D = -(-tokens_D * site.top_k // site.num_experts)
        load_DE = loads_per_device(step, step.kept_TE)
        if bool((load_DE > capacity_D[:, None]).any()):
            raise CheckFailure(
                f"{step.name}: a load of {int(load_DE.max())} is over the capacity of {capacity_D.tolist()}"
            )
        before += int(step.chosen_TE.sum())
        after += int(step.kept_TE.sum())
    return before, after


def _check_image_tokens(steps: Sequence[LayerStep], expected: int) -> None:
    """Check that each MoE layer is told its image tokens; where text and image have experts apart, together.

    A decoder of its own sees the text that it denoises, and no image.
    """
    known: Counter[str] = Counter()
    for step in steps:
        if step.tokens.image_T is None:
            raise CheckFailure(f"{step.name}: its image tokens are not known")
        known[step.name.removesuffix(".vision_moe").removesuffix(".text_moe")] += int(
            step.tokens.image_T.sum()
        )
    for name, count in known.items():
        if count != (0 if ".decoder." in name else expected):
            raise CheckFailure(f"{name}: {count} image tokens are known of {expected}")


def _check_refused(case: Case, policy: Policy) -> None:
    try:
        case.attached_logits(policy)
    except UnsupportedModelError:
        return
    raise CheckFailure(f"{policy.name} was not refused, although the scores outside the top-k are not known")
