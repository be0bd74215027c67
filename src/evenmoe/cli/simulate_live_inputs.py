"""What `simulate live` is given: prompts, a predictor of their loads, and where the experts are."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from evenmoe.live.prompts import Prompts
    from evenmoe.live.traffic import Predictor
    from evenmoe.placement import Placement

_LEARN_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class Given:
    """The options that say which prompts there are, where the experts are, and by which clock time is taken."""

    prompts: list[Path] | None
    prior: Path | None
    prompt_tokens: int
    devices: int
    placement: Placement | None
    clock: str
    ranks: int | None

    def describe(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "prompts": None if self.prompts is None else [str(path) for path in self.prompts],
            "prior": None if self.prior is None else str(self.prior),
            "prompt_tokens": self.prompt_tokens,
            "devices": self.devices,
            "placement": None if self.placement is None else self.placement.rows,
            "clock": self.clock,
            "ranks": self.ranks,
        }


def prompts_of(given: Given, tokenizer: Any) -> Prompts:
    """The prompts of the files, or of the held-out text that ships."""
    from evenmoe.evaluation.texts import heldout_texts
    from evenmoe.live.prompts import prompts_of_files, prompts_of_texts

    if given.prompts:
        return prompts_of_files(given.prompts, tokenizer, given.prompt_tokens)
    return prompts_of_texts(heldout_texts(), tokenizer, given.prompt_tokens)


def predictor_of(
    path: Path | None, model: Any, name: str, prompts: Prompts, announce: Callable[[str, int, int], None]
) -> tuple[Predictor, Prompts]:
    """A token prior, and the prompts that it was not learned from."""
    from evenmoe.models.prediction import learn_token_prior
    from evenmoe.scheduling.predictors import read_token_prior

    if path is not None:
        return read_token_prior(path), prompts
    to_learn, rest = prompts.split(_LEARN_SHARE)
    ids = list(to_learn.in_turn())
    prior = learn_token_prior(
        model,
        ids,
        model_name=name,
        domains=to_learn.topics,
        progress=lambda done: announce("learning the token prior", done, len(ids)),
    )
    return prior, rest
