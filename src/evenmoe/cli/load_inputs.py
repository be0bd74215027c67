"""What `evenmoe load` is given, from the command line's words: arrivals, prompts, more fields of the requests."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenmoe.errors import ConfigError
from evenmoe.simulation.checks import check_number

if TYPE_CHECKING:
    from evenmoe.serving.load import Planned
    from evenmoe.simulation.workloads.arrivals import Arrivals
    from evenmoe.simulation.workloads.prompts import Prompt

DEFAULT_PROMPT_WORDS = 64


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """The options that say when requests come and what they ask."""

    arrivals: Path | None
    speedup: float | None
    start: float | None
    keep_ties: bool
    rate: float | None
    burst: float | None
    intensity: float | None
    prompts: list[Path] | None
    prompt_words: int | None
    requests: int
    max_tokens: int | None
    warm_up: int
    seed: int

    def plan(self) -> tuple[list[Planned], list[Planned]]:
        """The requests before the clock starts, all at once, and those that are measured, which ask other things.

        Raises ConfigError for options that do not go together, and what reading files raises.
        """
        from evenmoe.serving.load import plan_load

        self._check()
        prompts = self._prompts()
        planned = plan_load(
            self._arrivals(prompts),
            prompts,
            num_requests=self.requests + self.warm_up,
            speedup=self.speedup or (math.inf if self.rate == math.inf else 1.0),
            max_tokens=self.max_tokens,
            seed=self.seed,
        )
        cut = max(len(planned) - self.warm_up, 1)
        return [replace(one, at_s=0.0) for one in planned[cut:]], planned[:cut]

    def describe(self) -> dict[str, Any]:
        """As plain data."""
        paths = {
            "arrivals": None if self.arrivals is None else str(self.arrivals),
            "prompts": None if self.prompts is None else [str(path) for path in self.prompts],
            "rate": "inf" if self.rate == math.inf else self.rate,
        }
        return asdict(self) | paths

    def _check(self) -> None:
        if (self.arrivals is None) == (self.rate is None):
            raise ConfigError("arrivals", _word(self.arrivals), "a trace, or --rate instead: one of the two")
        idle = (
            {"intensity": self.intensity}
            if self.arrivals is not None
            else {"speedup": self.speedup, "start": self.start, "keep-ties": self.keep_ties or None}
        )
        for name, value in idle.items():
            if value is not None:
                allowed = (
                    "left out with --arrivals" if self.arrivals is not None else "left out without --arrivals"
                )
                raise ConfigError(name, value, allowed)
        if self.intensity is not None and self.burst is None:
            raise ConfigError("intensity", self.intensity, "left out without --burst")
        if self.prompts and self.prompt_words is not None:
            allowed = "left out with --prompts: it cuts the text that ships"
            raise ConfigError("prompt-words", self.prompt_words, allowed)
        if self.speedup is not None:
            check_number("speedup", self.speedup, 0.0, above=True)

    def _prompts(self) -> list[Prompt]:
        from evenmoe.serving.load import heldout_texts, prompts_of_texts
        from evenmoe.simulation.workloads.prompts import read_prompts

        if self.prompts:
            return [prompt for path in self.prompts for prompt in read_prompts(path)]
        return prompts_of_texts(heldout_texts(), self.prompt_words or DEFAULT_PROMPT_WORDS)

    def _arrivals(self, prompts: Sequence[Prompt]) -> Arrivals:
        """Topics are as frequent as their prompts, unless the trace names them."""
        from evenmoe.cli.simulate_trace_inputs import cut_trace
        from evenmoe.serving.load import topic_mix
        from evenmoe.simulation.workloads.arrivals import Bursty, Poisson, Replayed

        mix = topic_mix(prompts)
        if self.arrivals is not None:
            trace = cut_trace(self.arrivals, self.requests + self.warm_up, self.start or 0.0, self.keep_ties)
            own = trace.topic_N is not None
            return Replayed(trace=trace, topic_mix=None if own else mix, topic_run=self.burst or 1.0)
        rate = 1.0 if self.rate == math.inf else self.rate
        assert rate is not None
        if self.burst is None:
            return Poisson(rate_per_s=rate, topic_mix=mix)
        intensity = {} if self.intensity is None else {"intensity": self.intensity}
        return Bursty(rate_per_s=rate, burst_requests=self.burst, topic_mix=mix, **intensity)


def extra_fields(text: str | None) -> dict[str, Any] | None:
    """More fields of each request's body. Raises ConfigError for what is no JSON object."""
    if text is None:
        return None
    try:
        body = json.loads(text)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise ConfigError("extra-body", text, 'a JSON object, such as {"priority": 1}')
    return body


def _word(path: Path | None) -> str | None:
    return None if path is None else str(path)
