"""What `simulate trace` is given, from the command line's words: trace, loads, machine, batching."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from evenmoe.errors import ConfigError, check_choice

if TYPE_CHECKING:
    from evenmoe.costs import LayerShape
    from evenmoe.simulation.continuous import Continuous
    from evenmoe.simulation.static import Static
    from evenmoe.simulation.straggler import StragglerExecution
    from evenmoe.simulation.workloads.load_noise import LoadNoise
    from evenmoe.simulation.workloads.load_sources import DomainLoadsSource, PromptLoads
    from evenmoe.simulation.workloads.traces import Trace

DEFAULT_SHARE = 0.9
DEFAULT_COSINE = 0.95
FORMULA = "formula"
BATCHINGS = ("static", "continuous")


def cut_trace(path: Path, requests: int, start_s: float, keep_ties: bool) -> Trace:
    """The first `requests` of a trace from `start_s` on; arrivals at one time are spread unless told not to."""
    from evenmoe.simulation.workloads.traces import read_trace

    trace = read_trace(path)
    return (trace if keep_ties else trace.spread_ties()).cut(num_requests=requests, start_s=start_s)


def rate_of(
    trace: Trace, share: float | None, rate: float | None, speed: float | None
) -> tuple[float | None, float | None]:
    """The share of fcfs's capacity, or requests per second, of which one is None. Raises ConfigError for several."""
    given = {name: value for name, value in (("share", share), ("rate", rate), ("speed", speed)) if value}
    if len(given) > 1:
        name, value = list(given.items())[1]
        raise ConfigError(
            name, value, f"left out with --{next(iter(given))}: one of --share, --rate, --speed"
        )
    if speed is not None:
        return None, speed * trace.rate_per_s
    return (None, rate) if rate is not None else (DEFAULT_SHARE if share is None else share, None)


def noise_of(noise: float | None, cosine: float | None, *, is_of_prompts: bool) -> LoadNoise:
    """How requests differ from what is expected of them, and what the scheduler is told.

    The scheduler knows what is expected of the topic or, with prompts, of the prompt. With loads by domain and a
    `cosine` it knows each request's own load, as a predictor of that accuracy would tell it.
    """
    from evenmoe.simulation.workloads.load_noise import LoadNoise, noise_of_cosine

    if is_of_prompts:
        if noise is not None:
            raise ConfigError(
                "noise", noise, "left out with --prompts: --cosine says how far they are from the prior"
            )
        error = noise_of_cosine(DEFAULT_COSINE if cosine is None else cosine)
        return LoadNoise(request=error, alike_tokens=0.0, prediction="expected")
    usual = LoadNoise()
    return LoadNoise(
        request=usual.request if noise is None else noise,
        alike_tokens=0.0 if noise == 0 else usual.alike_tokens,
        prediction="expected" if cosine is None else "exact",
        prediction_error=0.0 if cosine is None else noise_of_cosine(cosine),
    )


def loads_of(
    loads: Path | None,
    prompts: list[Path] | None,
    prior: Path | None,
    tokenizer: str | None,
    noise: LoadNoise,
) -> DomainLoadsSource | PromptLoads:
    """Loads by domain of a file, or of prompts through a token prior. Raises ConfigError unless it is one of them."""
    from evenmoe.loads import read_loads
    from evenmoe.simulation.workloads.load_sources import DomainLoadsSource

    if prompts:
        if loads is not None:
            raise ConfigError(
                "loads", str(loads), "left out with --prompts: loads are by domain, or of prompts"
            )
        return _prompt_loads(prompts, prior, tokenizer, noise)
    for name, value in (("prior", prior), ("tokenizer", tokenizer)):
        if value is not None:
            raise ConfigError(name, str(value), "left out without --prompts")
    if loads is None:
        raise ConfigError("loads", None, "a loads file by domain, or --prompts with --prior")
    found = read_loads(loads)
    if len(set(found.num_experts_L.tolist())) > 1:
        raise ConfigError(
            "loads", str(loads), f"layers of one size; they have {found.num_experts_L.tolist()} experts"
        )
    return DomainLoadsSource.of(found, noise=noise)


def _prompt_loads(
    paths: list[Path], prior_path: Path | None, tokenizer: str | None, noise: LoadNoise
) -> PromptLoads:
    from evenmoe.cli.running import path_of
    from evenmoe.models.loading import load_tokenizer
    from evenmoe.scheduling.predictors import read_token_prior
    from evenmoe.simulation.workloads.load_sources import PromptLoads
    from evenmoe.simulation.workloads.prompts import read_prompts, tokenized

    if prior_path is None:
        raise ConfigError("prior", None, "a token prior (evenmoe profile --predictor), which --prompts needs")
    prior = read_token_prior(prior_path)
    name = tokenizer or prior.model
    if not name:
        raise ConfigError(
            "tokenizer", None, f"the model whose tokenizer reads the prompts: {prior_path} names none"
        )
    reader = load_tokenizer(path_of(name))

    def tokenize(text: str) -> list[int]:
        ids: list[int] = reader(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    by_topic = tokenized([prompt for path in paths for prompt in read_prompts(path)], tokenize)
    return PromptLoads.of(prior, by_topic, noise=noise)


def execution_of(
    source: DomainLoadsSource | PromptLoads,
    shape: str | None,
    machine: str,
    dtype: str,
    devices: int | None,
    placement: Path | None,
    policy: str | None,
    gamma: float | None,
    assign: str,
) -> tuple[LayerShape, StragglerExecution]:
    """The machine. Raises ConfigError and ShapeError where loads, shape, placement and devices disagree."""
    from evenmoe.costs import DTYPES, read_machine
    from evenmoe.placement import read_placement
    from evenmoe.simulation.layer_costs import FormulaCosts, MachineCosts
    from evenmoe.simulation.straggler import StragglerExecution

    check_choice("dtype", dtype, DTYPES)
    sizes = _shape(source, shape)
    placed = None if placement is None else read_placement(placement)
    if placed is not None and devices not in (None, placed.num_devices):
        raise ConfigError("devices", devices, f"the {placed.num_devices} of {placement}, or left out")
    costs = (
        FormulaCosts()
        if machine == FORMULA
        else MachineCosts(machine=read_machine(machine), shape=sizes, dtype=cast(Any, dtype))
    )
    return sizes, StragglerExecution(
        sizes,
        num_loads=source.num_layers,
        num_devices=devices or (sizes.num_devices if placed is None else placed.num_devices),
        placement=placed,
        costs=costs,
        dropping=_dropping(policy, gamma),
        assign_method=assign,
    )


def _shape(source: DomainLoadsSource | PromptLoads, name: str | None) -> LayerShape:
    from evenmoe.cli.running import path_of
    from evenmoe.costs import SHAPES, read_shape

    sizes = (source.num_experts, int(source.top_k))
    if name is None:
        fitting = [shape for shape in SHAPES.values() if (shape.num_experts, shape.top_k) == sizes]
        if len(fitting) != 1:
            known = f"one of {', '.join(SHAPES)}, a model's config.json or bundled:text"
            allowed = f"{known}; the loads have {sizes[0]} experts, top-{sizes[1]}"
            raise ConfigError("shape", None, allowed)
        return fitting[0]
    shape = read_shape(path_of(name))
    if (shape.num_experts, shape.top_k) != sizes:
        found = f"{name} ({shape.num_experts} experts, top-{shape.top_k})"
        raise ConfigError("shape", found, f"one with the {sizes[0]} experts, top-{sizes[1]}, of the loads")
    return shape


def _dropping(policy: str | None, gamma: float | None) -> Any:
    from evenmoe.simulation.dropping import Dropping

    if policy is None:
        if gamma is not None:
            raise ConfigError("gamma", gamma, "left out without --policy")
        return None
    if gamma is None:
        raise ConfigError("gamma", None, f"a capacity factor, which --policy {policy} needs")
    return Dropping(policy=cast(Any, policy), gamma=gamma)


def batching_of(
    name: str, max_running: int | None, token_budget: int | None, chunk_tokens: int | None
) -> Static | Continuous:
    """Static batches, or continuous ones. Raises ConfigError for a setting of the other kind."""
    from evenmoe.simulation.continuous import Continuous
    from evenmoe.simulation.static import Static

    check_choice("batching", name, BATCHINGS)
    settings = {"max_running": max_running, "token_budget": token_budget, "chunk_tokens": chunk_tokens}
    given = {key: value for key, value in settings.items() if value is not None}
    if name == "continuous":
        return Continuous(**cast(Any, given))
    for key, value in given.items():
        raise ConfigError(key.replace("_", "-"), value, "left out with static batches")
    return Static()
