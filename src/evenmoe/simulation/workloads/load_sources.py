"""Where load vectors come from. Shape letters: N requests, L layers, E experts, X = L*E, G topics, P prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evenmoe.errors import ConfigError, ShapeError
from evenmoe.loads import ExpertLoads
from evenmoe.simulation.checks import check_int, check_number
from evenmoe.simulation.workloads.load_noise import LoadNoise, noise_of_cosine, pairs_per_token

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class DrawnLoads:
    """Loads of consecutive requests, as expected pairs per token: each layer sums to K.

    load_NX: what they truly ask for. predicted_NX: what the scheduler is told; the same array where that is exact.
    prompt_tokens: how long the prompts are, whether the source or the caller said it.
    """

    load_NX: Floats
    predicted_NX: Floats
    prompt_tokens: Ints


class LoadSource(Protocol):
    """Draws load vectors for requests of known topics."""

    @property
    def topics(self) -> tuple[str, ...]:
        """Names of the topics; at least one."""

    @property
    def num_layers(self) -> int:
        """L."""

    @property
    def num_experts(self) -> int:
        """E of each layer."""

    @property
    def top_k(self) -> float:
        """K: the sum of a load vector over the experts of one layer."""

    @property
    def has_lengths(self) -> bool:
        """Whether the source can say prompt lengths: `draw` then takes None for them."""

    def draw(self, topic_N: Ints, prompt_tokens: Ints | None, rng: np.random.Generator) -> DrawnLoads:
        """Loads for requests of these topics and prompt lengths, [N] each."""


@dataclass(frozen=True, kw_only=True)
class SyntheticTopics:
    """Made-up topics, as CAPS has them: each draws, layer by layer, how often it uses which expert.

    num_topics: how many there are, named topic-0, topic-1, ...
    num_experts, top_k, num_layers: of the model; CAPS's study has 60, 4 and 1.
    concentration: of the Dirichlet draw of each topic's shares: at 0.1 a topic uses few experts, at 10 all about alike.
        A share of more than 1 / top_k is cut to that, as a token has an expert once.
    profile_seed: of the topics' shares. They do not change with the seed of a run.
    noise: how requests differ from their topic.
    Raises ConfigError.
    """

    num_topics: int = 8
    num_experts: int = 60
    top_k: int = 4
    num_layers: int = 1
    concentration: float = 0.3
    profile_seed: int = 0
    noise: LoadNoise = field(default_factory=LoadNoise)

    has_lengths = False

    def __post_init__(self) -> None:
        for name in ("num_topics", "num_experts", "top_k", "num_layers"):
            check_int(name, getattr(self, name), 1)
        check_int("profile_seed", self.profile_seed, 0)
        check_number("concentration", self.concentration, 0.0, above=True)
        if self.top_k > self.num_experts:
            raise ConfigError("top_k", self.top_k, f"at most num_experts, {self.num_experts}")

    @property
    def topics(self) -> tuple[str, ...]:
        """topic-0, topic-1, ..."""
        return tuple(f"topic-{index}" for index in range(self.num_topics))

    @cached_property
    def expected_GLE(self) -> Floats:
        """[G, L, E]: expected pairs per token of each topic."""
        rng = np.random.default_rng(self.profile_seed)
        alpha_E = np.full(self.num_experts, float(self.concentration))
        share_GLE = rng.dirichlet(alpha_E, (self.num_topics, self.num_layers))
        return pairs_per_token(np.maximum(share_GLE, 1e-9), self.top_k)

    def draw(self, topic_N: Ints, prompt_tokens: Ints | None, rng: np.random.Generator) -> DrawnLoads:
        """Loads for requests of these topics and prompt lengths, [N] each. Raises ConfigError without lengths."""
        return _with_noise(self.expected_GLE, topic_N, prompt_tokens, self.noise, self.top_k, rng)


@dataclass(frozen=True, kw_only=True, eq=False)
class DomainLoadsSource:
    """Topics are the domains (tags) of recorded loads: what the model's own router asked for, before any policy.

    A file holds one sum per domain and layer, so how requests of one domain differ is not in it: that is `noise`.
    `of` makes one from ExpertLoads.
    """

    topics: tuple[str, ...]
    expected_GLE: Floats
    top_k: int
    noise: LoadNoise

    has_lengths = False

    @classmethod
    def of(
        cls, loads: ExpertLoads, *, domains: Sequence[str] | None = None, noise: LoadNoise | None = None
    ) -> DomainLoadsSource:
        """The domains of these loads; all, or those named.

        Raises ConfigError for loads without domains, for a name that is not one, and for a layer in which a domain has
        fewer than K experts with load.
        """
        if not loads.by_tag:
            raise ConfigError("tags of the loads", [], "at least one: requests draw their load by domain")
        names = tuple(loads.by_tag) if domains is None else tuple(domains)
        if not names:
            raise ConfigError("domains", names, "at least one")
        for name in names:
            if name not in loads.by_tag:
                raise ConfigError("domains", name, "one of " + ", ".join(loads.by_tag))
        counts_GLE = np.array([loads.by_tag[name].before_LE for name in names], dtype=np.float64)
        for domain, layer in np.argwhere((counts_GLE > 0).sum(-1) < loads.top_k):
            allowed = f"loads with at least {loads.top_k} experts used in layer {loads.layers[layer]}"
            raise ConfigError("domains", names[domain], allowed)
        return cls(
            topics=names,
            expected_GLE=pairs_per_token(counts_GLE, loads.top_k),
            top_k=loads.top_k,
            noise=LoadNoise() if noise is None else noise,
        )

    @property
    def num_layers(self) -> int:
        """L: all layers of the loads."""
        return int(self.expected_GLE.shape[1])

    @property
    def num_experts(self) -> int:
        """The most experts of any layer; a layer with fewer has zeros."""
        return int(self.expected_GLE.shape[2])

    def draw(self, topic_N: Ints, prompt_tokens: Ints | None, rng: np.random.Generator) -> DrawnLoads:
        """Loads for requests of these topics and prompt lengths, [N] each. Raises ConfigError without lengths."""
        return _with_noise(self.expected_GLE, topic_N, prompt_tokens, self.noise, self.top_k, rng)


PRIOR_NOISE = LoadNoise(request=noise_of_cosine(0.95), alike_tokens=0.0, prediction="expected")
"""How true loads lie around the predictions of a token prior whose cosine with them is 0.95, sampling included."""


class PromptPredictor(Protocol):
    """What PromptLoads asks of a predictor; the token prior is one."""

    @property
    def num_layers(self) -> int:
        """L."""

    @property
    def num_experts(self) -> int:
        """E."""

    @property
    def top_k(self) -> int:
        """K."""

    def predict(self, ids_T: ArrayLike, /) -> Floats:
        """[L, E]: expected pairs of the whole prompt."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptLoads:
    """Real prompts, each with the load that a predictor expects of it. A request draws one of its topic's prompts.

    The prediction is what the scheduler knows in practice, so `noise` says how the truth differs from it: by default
    PRIOR_NOISE.
    `of` makes one from prompts.

    Topic g has the prompts from first_G[g] to before first_G[g + 1].
    """

    topics: tuple[str, ...]
    expected_PLE: Floats
    tokens_P: Ints
    first_G: Ints
    top_k: float
    noise: LoadNoise

    has_lengths = True

    @classmethod
    def of(
        cls,
        predictor: PromptPredictor,
        prompts: Mapping[str, Sequence[ArrayLike]],
        *,
        noise: LoadNoise | None = None,
    ) -> PromptLoads:
        """Predict the load of every prompt once. `prompts`: the token ids of each, by topic.

        Raises ConfigError for no topic, a topic of no prompts, and a prompt of no tokens or of which the predictor
        expects fewer than K experts; ShapeError for a prediction that is not [L, E].
        """
        if not prompts or not all(prompts.values()):
            allowed = "at least one topic, each of at least one prompt"
            raise ConfigError("prompts", {topic: len(ids) for topic, ids in prompts.items()}, allowed)
        predicted = [
            _predicted(predictor, topic, number, ids)
            for topic, ids_of_topic in prompts.items()
            for number, ids in enumerate(ids_of_topic)
        ]
        return cls(
            topics=tuple(prompts),
            expected_PLE=np.array([expected_LE for expected_LE, _ in predicted]),
            tokens_P=np.array([num_tokens for _, num_tokens in predicted], dtype=np.int64),
            first_G=np.cumsum([0, *map(len, prompts.values())]),
            top_k=predictor.top_k,
            noise=PRIOR_NOISE if noise is None else noise,
        )

    @property
    def num_layers(self) -> int:
        """L of the predictor."""
        return int(self.expected_PLE.shape[1])

    @property
    def num_experts(self) -> int:
        """E of the predictor."""
        return int(self.expected_PLE.shape[2])

    def draw(self, topic_N: Ints, prompt_tokens: Ints | None, rng: np.random.Generator) -> DrawnLoads:
        """Loads for requests of these topics; None takes the prompts' own lengths."""
        choice_rng, noise_rng = rng.spawn(2)
        first_N, stop_N = self.first_G[topic_N], self.first_G[topic_N + 1]
        prompt_N = choice_rng.integers(first_N, stop_N)
        tokens_N = self.tokens_P[prompt_N] if prompt_tokens is None else prompt_tokens
        return _with_noise(self.expected_PLE, prompt_N, tokens_N, self.noise, self.top_k, noise_rng)


def _predicted(predictor: PromptPredictor, topic: str, number: int, ids: ArrayLike) -> tuple[Floats, int]:
    """(expected pairs per token [L, E], tokens) of a prompt."""
    ids_T, name, top_k = np.asarray(ids), f"prompts[{topic!r}][{number}]", predictor.top_k
    if ids_T.ndim != 1 or not len(ids_T):
        raise ConfigError(name, ids_T.shape, "token ids [T], at least one")
    pairs_LE = np.asarray(predictor.predict(ids_T), dtype=np.float64)
    shape = (predictor.num_layers, predictor.num_experts)
    if pairs_LE.shape != shape:
        raise ShapeError(f"the prediction of {name} has shape {pairs_LE.shape}, not [L, E] = {shape}")
    if not (pairs_LE >= 0).all() or ((pairs_LE > 0).sum(-1) < top_k).any():
        raise ConfigError(name, len(ids_T), f"a prompt that uses at least {top_k} experts in each layer")
    return pairs_per_token(pairs_LE, top_k), len(ids_T)


def _with_noise(
    expected_SLE: Floats,
    index_N: Ints,
    prompt_tokens: Ints | None,
    noise: LoadNoise,
    top_k: float,
    rng: np.random.Generator,
) -> DrawnLoads:
    if prompt_tokens is None:
        raise ConfigError("prompt_tokens", None, "given: this source of loads has no lengths of its own")
    load_NLE, predicted_NLE = noise.draw(expected_SLE[index_N], prompt_tokens, top_k, rng)
    load_NX = load_NLE.reshape(len(index_N), -1)
    is_exact = predicted_NLE is load_NLE
    predicted_NX = load_NX if is_exact else predicted_NLE.reshape(len(index_N), -1)
    return DrawnLoads(load_NX, predicted_NX, prompt_tokens)
