"""VLMEvalKit's model `evenmoe`: a vision-language MoE under a routing policy, answering in batches that never change.

VLMEvalKit asks one question at a time, and dropping acts on a batch. So the model answers the whole benchmark when it
is asked the first question of it, in the benchmark's order, `batch_size` at a time, and hands out answer by answer.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn
from vlmeval.vlm.base import BaseModel

from evenmoe.errors import ConfigError, check_choice
from evenmoe.evaluation.checkpoints import weights_mark
from evenmoe.evaluation.results import versions
from evenmoe.evaluation.scoring import EvalConfig, LoadFigures
from evenmoe.evaluation.vision.answering import open_answerer
from evenmoe.evaluation.vision.scoring import MAX_NEW_TOKENS as MAX_NEW_TOKENS_OF_A_WORD
from evenmoe.evaluation.vision.sources import LazyRows
from evenmoe.evaluation.vision.suites import BUNDLED_VLM
from evenmoe.evaluation.vision.vlmevalkit.messages import (
    Message,
    bare_question,
    identity_of,
    lettered,
    prompt_of,
)
from evenmoe.loads import ExpertLoads
from evenmoe.simulation.studies.journal import Journal

log = logging.getLogger(__name__)

Prompts = Literal["auto", "benchmark", "question"]
"""How questions are put: as the benchmark words them for VLMEvalKit, options and instruction included, or the bare
question, the answer in words taken for the option that it names. "auto": bare for the bundled model, which knows no
other words."""

MAX_NEW_TOKENS = 128
Progress = Callable[[int, int], None]


class EvenMoEVLM(BaseModel):  # type: ignore[misc]  # VLMEvalKit has no types
    """VLMEvalKit's way to a model with a policy attached; made by the name `register` gave, or `run_vlmevalkit`."""

    INTERLEAVE = True

    def __init__(
        self,
        config: EvalConfig,
        *,
        prompts: Prompts = "auto",
        max_new_tokens: int | None = None,
        device: str | torch.device | None = None,
        report: Path | str | None = None,
        journal: Journal | None = None,
        loaded: tuple[nn.Module, Any] | None = None,
    ) -> None:
        """Load the model and attach its policy.

        max_new_tokens: None: 4 for a bare question, which is answered by a word, else 128. device, journal, loaded: as
        `open_answerer` takes them. report: a folder for a file per benchmark that says which checkpoint and which
        policy answered it, in which batches, and how even the loads were.
        Raises ConfigError and UnsupportedModelError for a model or a setting that cannot be had.
        """
        super().__init__()
        check_choice("prompts", prompts, get_args(Prompts))
        if max_new_tokens is not None and max_new_tokens < 1:
            raise ConfigError("max_new_tokens", max_new_tokens, "at least 1")
        if (ranks := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
            raise ConfigError("WORLD_SIZE", ranks, "1: evenmoe's devices are virtual, in one process")
        self.config = config
        self.bare = prompts == "question" or (prompts == "auto" and config.model == BUNDLED_VLM)
        self.max_new_tokens = max_new_tokens or (MAX_NEW_TOKENS_OF_A_WORD if self.bare else MAX_NEW_TOKENS)
        self.said: dict[str, str] = {}
        """What the model said in its own words to the benchmark asked last, by the item's index."""
        self._report = None if report is None else Path(report)
        self.num_alone = 0
        """Questions that belong to no benchmark; each was a batch of its own."""
        self.progress: Progress | None = None
        """Told after each batch how much of the benchmark is done."""
        self._benchmark: Any = None
        self._answers: dict[Any, str] = {}
        self._fingerprints: dict[str, str] = {}
        self._stack = ExitStack()
        opened = open_answerer(config, journal=journal, device=device, loaded=loaded)
        self._answerer = self._stack.enter_context(opened)

    @property
    def in_force(self) -> dict[str, Any]:
        """The checkpoint and the policy that answer, told from the loaded model and from what is attached to it."""
        assert self._answerer.attached is not None
        checkpoint = {
            "checkpoint": self._answerer.model.name_or_path,
            "files": weights_mark(self.config.model),
        }
        return checkpoint | self._answerer.attached.describe()

    @property
    def loads(self) -> ExpertLoads | None:
        """What was routed and what ran so far; None before the first batch."""
        return self._answerer.loads

    @property
    def seconds(self) -> float:
        """What all batches took."""
        return self._answerer.seconds

    @property
    def batches(self) -> dict[str, Any]:
        """How the batches were formed so far, as data, with a fingerprint of each benchmark's order."""
        return {
            "size": self.config.batch_size,
            "order": "benchmark by benchmark, each in its own order, never two in one batch",
            "devices": "contiguous shares of a batch's rows, the first (rows mod devices) devices one more",
            "alone": self.num_alone,
            "fingerprints": dict(self._fingerprints),
        }

    def close(self) -> None:
        """Take the policy off the model. Doing so again does nothing."""
        self._stack.close()

    def set_dump_image(self, dump_image_func: Any) -> None:
        """Called by VLMEvalKit before the first question of a benchmark, with a method of the benchmark."""
        super().set_dump_image(dump_image_func)
        self._benchmark = getattr(dump_image_func, "__self__", None)
        self._answers, self.said = {}, {}

    def use_custom_prompt(self, dataset: str) -> bool:
        """Whether `build_prompt` words the questions, whatever the benchmark."""
        return self.bare

    def build_prompt(self, line: Mapping[str, Any], dataset: str | None = None) -> list[dict[str, Any]]:
        """Return a row as a message of its images and its bare question."""
        return bare_question(line, self.dump_image(line, dataset))

    def generate_inner(self, message: Message, dataset: str | None = None) -> str:
        """Answer one question: from the answers to its whole benchmark where there is one, alone otherwise."""
        if self._benchmark is not None and not self._answers:
            self._answer_benchmark()
        answer = self._answers.get(identity_of(message))
        return lettered(self._answer_alone(message) if answer is None else answer, message)

    def _answer_benchmark(self) -> None:
        data = self._benchmark.data
        messages = [self._message(data.iloc[place]) for place in range(len(data))]
        prompts = LazyRows(messages, lambda message: prompt_of(message, self.max_new_tokens))
        self._answerer.restart()
        answers = self._answerer.answer(prompts, self.progress)
        indices = [str(index) for index in data["index"]]
        self.said = dict(zip(indices, answers, strict=True))
        self._answers = dict(zip(map(identity_of, messages), answers, strict=True))
        name = self._benchmark.dataset_name
        self._fingerprints[name] = hashlib.sha256("\n".join(indices).encode()).hexdigest()
        if self._report is not None:
            self._write_report(self._report / f"{name}.json")

    def _message(self, row: Any) -> Message:
        """Word a row as VLMEvalKit's own loop does: by `build_prompt` or by the benchmark."""
        name = self._benchmark.dataset_name
        forced = getattr(self._benchmark, "force_use_dataset_prompt", False)
        own = self.use_custom_prompt(name) and not forced
        asked = self.build_prompt(row, dataset=name) if own else self._benchmark.build_prompt(row)
        message: Message = self.preproc_content(asked)
        return message

    def _write_report(self, path: Path) -> None:
        assert self.loads is not None
        body = {
            "config": self.config.model_dump(mode="json"),
            "label": self.config.label,
            "in_force": self.in_force,
            "batches": self.batches,
            "loads": LoadFigures.of(self.loads).model_dump(mode="json"),
            "versions": versions(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")

    def _answer_alone(self, message: Message) -> str:
        if not self.num_alone:
            log.warning(
                "a question of no benchmark is a batch of its own: its capacity is that of one request"
            )
        self.num_alone += 1
        return self._answerer.answer([prompt_of(message, self.max_new_tokens)])[0]
