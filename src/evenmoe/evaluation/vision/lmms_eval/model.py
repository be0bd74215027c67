"""The model `evenmoe` of lmms-eval: any vision-language MoE under a routing policy, in batches that never change."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from tqdm import tqdm

from evenmoe.errors import ConfigError, UnsupportedModelError
from evenmoe.evaluation.results import versions
from evenmoe.evaluation.scoring import EvalConfig, LoadFigures
from evenmoe.evaluation.vision.answering import Progress, open_answerer
from evenmoe.evaluation.vision.lmms_eval.batches import BatchLog
from evenmoe.evaluation.vision.lmms_eval.questions import (
    by_task,
    continuation_of,
    ending_of,
    prompt_of,
)
from evenmoe.evaluation.vision.options import config_of
from evenmoe.evaluation.vision.prompts import Prompt
from evenmoe.evaluation.vision.sources import LazyRows
from evenmoe.loads import ExpertLoads, write_loads
from evenmoe.models.attached import Attached
from evenmoe.simulation.studies.journal import Journal

LOADS_FILE, RUN_FILE = "loads.json", "run.json"

Row = TypeVar("Row")


class EvenMoELmms(lmms):  # type: ignore[misc]  # lmms-eval has no types
    """lmms-eval's way to a model with a policy attached. Options: `evenmoe.evaluation.vision.options`.

    A batch holds `batch_size` requests of one task in lmms-eval's order, its last batch what remains; scores of a
    task depend on nothing of the tasks beside it.
    """

    is_simple = True

    def __init__(
        self,
        *,
        report: str | None = None,
        device: str | None = None,
        max_batch_size: int | None = None,
        **options: Any,
    ) -> None:
        """Load the model and attach its policy.

        report: a folder for `loads.json` and `run.json` (configuration, batches, figures of the loads), written when
        lmms-eval is done with the model. device: as in lmms-eval's `--device`. Raises ConfigError naming an option.
        """
        if max_batch_size is not None:
            raise ConfigError(
                "max_batch_size", max_batch_size, "left out: what shares a batch changes the scores"
            )
        self._begin(
            config_of(options, "model_args: "), device=device, report=None if report is None else Path(report)
        )

    @classmethod
    def of(
        cls, config: EvalConfig, *, progress: Progress | None = None, journal: Journal | None = None
    ) -> EvenMoELmms:
        """Make the model from a configuration.

        progress: told after each batch how many requests are done. journal: where finished batches are kept, and
        taken from if they are there already.
        """
        model = cls.__new__(cls)
        model._begin(config, progress=progress, journal=journal)
        return model

    def _begin(
        self,
        config: EvalConfig,
        *,
        device: str | None = None,
        report: Path | None = None,
        progress: Progress | None = None,
        journal: Journal | None = None,
    ) -> None:
        super().__init__()
        if (ranks := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
            raise ConfigError("WORLD_SIZE", ranks, "1: evenmoe's devices are virtual, in one process")
        self.config, self.device = config, torch.device(device or "cpu")
        self._report, self._progress = report, progress
        self._batches = BatchLog(config.batch_size)
        self._stack = ExitStack()
        opened = open_answerer(config, journal=journal, device=device)
        self._answerer = self._stack.enter_context(opened)

    @property
    def attached(self) -> Attached:
        """The policy on the model."""
        attached = self._answerer.attached
        assert attached is not None
        return attached

    @property
    def loads(self) -> ExpertLoads | None:
        """What was routed and what ran so far, None before the first batch; readable after `close` too."""
        return self._answerer.loads

    @property
    def seconds(self) -> float:
        """What all batches took."""
        return self._answerer.seconds

    @property
    def batches(self) -> dict[str, Any]:
        """How the batches were formed so far, as data."""
        return self._batches.describe()

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answer each request greedily. Raises UnsupportedModelError for videos and sound, ConfigError for sampling."""
        answers = [""] * len(requests)
        for task, places, rows in by_task(requests):
            ending = ending_of(task, rows[0].args[1])

            def prompt(row: Any, limit: int = ending.max_new_tokens) -> Prompt:
                return prompt_of(row, self.task_dict, limit)

            with self._running("generate_until", task, rows) as progress:
                found = self._answerer.answer(_checked(rows, prompt), progress)
            for place, answer in zip(places, found, strict=True):
                answers[place] = ending.cut(answer)
        return answers

    def loglikelihood(self, requests: Sequence[Any]) -> list[GenerationResult]:
        """Return for each request (mean loss per token of its continuation, whether greedy decoding gives it).

        The loss, not the log-likelihood that the base class speaks of: lmms-eval's multiple choice takes the choice
        with the *least* value. And wrapped: its evaluator turns a bare pair of numbers into text.
        """
        found = [GenerationResult(text="")] * len(requests)
        for task, places, rows in by_task(requests):

            def pair(row: Any) -> tuple[Prompt, str]:
                return prompt_of(row, self.task_dict), continuation_of(row, self.task_dict)

            with self._running("loglikelihood", task, rows) as progress:
                likelihoods = self._answerer.loglikelihoods(_checked(rows, pair), progress)
            for place, likelihood in zip(places, likelihoods, strict=True):
                loss = -likelihood.logprob / likelihood.num_tokens
                found[place] = GenerationResult(text=(loss, likelihood.is_greedy))
        return found

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refuse: rounds whose number depends on the answers would make batches that depend on them."""
        raise UnsupportedModelError(
            f"{requests[0].task_name} asks in several rounds: the model evenmoe answers single questions only"
        )

    def clean(self) -> None:
        """Write the report, if asked for, and let go of the model; lmms-eval calls this after the last request."""
        if self._report is not None:
            self._write_report(self._report)
        self.close()
        super().clean()

    def close(self) -> None:
        """Take the policy off the model. Doing so again does nothing."""
        self._stack.close()

    @contextmanager
    def _running(self, kind: str, task: str, rows: Sequence[Any]) -> Iterator[Progress]:
        """Note a task's batches; draws at random start anew with each task. Gives what to tell of the progress."""
        self._batches.add(kind, task, rows)
        self._answerer.restart()
        if self._progress is not None:
            yield self._progress
            return
        with tqdm(total=len(rows), desc=f"evenmoe, {task}") as bar:
            yield lambda done, _total: bar.update(done - bar.n)

    def _write_report(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if (loads := self.loads) is not None:
            write_loads(loads, folder / LOADS_FILE)
        run = {
            "config": self.config.model_dump(mode="json"),
            "label": self.config.label,
            "batches": self.batches,
            "versions": versions(),
            "loads": None if loads is None else LoadFigures.of(loads).model_dump(mode="json"),
        }
        (folder / RUN_FILE).write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


def _checked(rows: Sequence[Any], make: Callable[[Any], Row]) -> LazyRows[Row]:
    """Make the first row at once: a task that shows what cannot be shown is refused before anything ran."""
    make(rows[0])
    return LazyRows(rows, make)
