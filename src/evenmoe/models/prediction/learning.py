"""Learning a token prior: run prompts through a model, and count which experts each token id was given.

Shape letters: S tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from evenmoe.errors import ConfigError
from evenmoe.models.attach import attach
from evenmoe.models.attached import Attached
from evenmoe.models.prediction.running import Progress, ids_of, sizes_of, true_loads
from evenmoe.models.session import LayerStep
from evenmoe.routing import Baseline
from evenmoe.scheduling.predictors.fitting import RecordedPrompts, fit_token_prior
from evenmoe.scheduling.predictors.predictor import as_ids
from evenmoe.scheduling.predictors.token_counts import TokenCounter, TokenCounts
from evenmoe.scheduling.predictors.token_prior import SHRINKAGE, TokenPrior

NUM_FOLDS = 4


class ChoiceListener:
    """Counts by token id which experts the routers chose: `with attached.observed(ChoiceListener(attached)): ...`.

    Works in any run of an attached model, prefill and decode alike. What the routers chose is counted, not what a
    policy kept. A file of counts shows which token ids were in the texts.
    """

    def __init__(self, attached: Attached) -> None:
        self._counter = TokenCounter(*sizes_of(attached))

    def __call__(self, step: LayerStep) -> None:
        """Count one layer's part of one forward. Raises ShapeError where its tokens' ids are not known."""
        ids_T, real_T, chosen_TE = ids_of(step), step.tokens.real_T, step.chosen_TE
        if real_T is not None:
            ids_T, chosen_TE = ids_T[real_T], chosen_TE[real_T]
        ids = ids_T.cpu().numpy()
        if step.layer == 0:
            self._counter.add_seen(ids)
        self._counter.add(step.layer, ids, chosen_TE.cpu().numpy())

    def counts(self) -> TokenCounts:
        """What was counted so far. Raises ConfigError if that is nothing."""
        return self._counter.counts()


def learn_token_prior(
    model: nn.Module,
    prompts: Sequence[ArrayLike],
    *,
    batch_size: int = 16,
    shrinkage: float = SHRINKAGE,
    model_name: str = "",
    domains: Sequence[str] = (),
    progress: Progress | None = None,
) -> TokenPrior:
    """A token prior from running `prompts`, token ids [S] each, through `model`, which must not be attached.

    The prompts are cut into 4 folds, in their order, and the prior is calibrated on each as predicted from the others.
    model_name, domains: kept with the prior. progress: told the number of prompts run so far.
    Raises ConfigError without any prompt that has tokens, and as `attach` does.
    """
    folds = record_prompts(model, prompts, batch_size=batch_size, progress=progress)
    return fit_token_prior(folds, shrinkage=shrinkage, model=model_name, domains=domains)


def record_prompts(
    model: nn.Module,
    prompts: Sequence[ArrayLike],
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> list[RecordedPrompts]:
    """Run prompts through a model that is not attached, and record their loads and their choices by token id.

    Gives 4 folds of prompts in their order, fewer where there are fewer prompts; empty prompts are left out.
    Raises ConfigError without any prompt that has tokens, ShapeError where layers run on other tokens than the
    prompts', and as `attach` does.
    """
    checked = [ids_S for ids_S in map(as_ids, prompts) if len(ids_S)]
    if not checked:
        raise ConfigError("prompts", len(prompts), "at least one that has tokens")
    folds, done = [], 0
    with attach(model, Baseline(), pad_token_id=-1) as attached:
        for places in np.array_split(np.arange(len(checked)), min(NUM_FOLDS, len(checked))):
            fold = tuple(checked[place] for place in places)
            listener = ChoiceListener(attached)

            def announce(more: int, before: int = done) -> None:
                if progress is not None:
                    progress(before + more)

            with attached.observed(listener):
                load_NLE = true_loads(model, attached, fold, batch_size=batch_size, progress=announce)
            folds.append(RecordedPrompts(prompts=fold, load_NLE=load_NLE, counts=listener.counts()))
            done += len(fold)
    return folds
