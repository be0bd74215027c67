"""Answering questions about images, in batches whose make-up never changes.

Dropping makes an answer depend on its batch, so prompts are answered in the given order, `batch_size` at a time; the
rows of a batch go to the virtual devices in contiguous shares (`attach`). Shape letters: B rows, S positions,
V vocabulary.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from evenmoe.errors import ConfigError
from evenmoe.evaluation.checkpoints import checkpoint_of
from evenmoe.evaluation.ledger import BatchLedger
from evenmoe.evaluation.scoring import EvalConfig
from evenmoe.evaluation.vision.encoding import Encoder
from evenmoe.evaluation.vision.generating import generate
from evenmoe.evaluation.vision.prompts import Likelihood, Prompt, fingerprint
from evenmoe.loads import ExpertLoads
from evenmoe.models.attach import attach
from evenmoe.models.attached import Attached
from evenmoe.models.loading import load
from evenmoe.models.padding import SpecialTokens
from evenmoe.models.processing import load_processor
from evenmoe.placement import Placement
from evenmoe.simulation.studies.journal import Journal

__all__ = ["Answerer", "Likelihood", "Prompt", "open_answerer"]

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called after each batch: rows done, rows in all."""


class Answerer:
    """A vision-language model with its processor, under whatever policy is attached to it."""

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        *,
        batch_size: int = 16,
        attached: Attached | None = None,
        journal: Journal | None = None,
    ) -> None:
        """
        attached: what `evenmoe.attach(model, ...)` gave; None for the model as it is.
            Loads are counted batch by batch: read them from `loads` here, `attached` has those of the last batch alone.
        journal: where finished batches are kept, and taken from if they are there already.

        Raises ConfigError for a batch size under 1, UnsupportedModelError for a processor without a tokenizer.
        """
        if batch_size < 1:
            raise ConfigError("batch_size", batch_size, "at least 1")
        self.model, self.processor = model.eval(), processor
        self.batch_size, self.attached = batch_size, attached
        self._encoder = Encoder(processor)
        self._ledger = BatchLedger(attached, journal)
        self._seconds = 0.0

    @property
    def loads(self) -> ExpertLoads | None:
        """What was routed and what ran in all batches so far; None without a policy attached, and before the first."""
        return self._ledger.loads

    @property
    def seconds(self) -> float:
        """What all batches took, those of the journal when they ran."""
        return self._seconds + self._ledger.seconds_resumed

    def restart(self) -> None:
        """Draw at random from here on as if nothing had run before."""
        self._ledger.restart()

    def answer(self, prompts: Sequence[Prompt], progress: Progress | None = None) -> list[str]:
        """Answer each prompt by greedy decoding; special tokens are left out, and white space around the answer."""
        return self._in_batches(prompts, self._answer_batch, fingerprint, progress)

    def loglikelihoods(
        self, pairs: Sequence[tuple[Prompt, str]], progress: Progress | None = None
    ) -> list[Likelihood]:
        """How likely each text is as the continuation of its prompt; one row of a batch per pair.

        Raises ConfigError for a continuation of no token.
        """

        def name(batch: Sequence[tuple[Prompt, str]]) -> str:
            return fingerprint([prompt for prompt, _ in batch], [text for _, text in batch])

        found = self._in_batches(pairs, self._likelihood_batch, name, progress)
        return [Likelihood(**values) for values in found]

    def choose(
        self, prompts: Sequence[Prompt], options: Sequence[Sequence[str]], progress: Progress | None = None
    ) -> list[int]:
        """Return for each prompt the index of its likeliest option, the first of equals.

        The options of a prompt follow each other as rows; prompts need not have equally many.
        Raises ConfigError for a prompt without options.
        """
        if not all(options):
            raise ConfigError("options", [], "at least one option for each prompt")
        pairs = [(prompt, option) for prompt, row in zip(prompts, options, strict=True) for option in row]
        found = iter(self.loglikelihoods(pairs, progress))
        scores = [[next(found).logprob for _ in row] for row in options]
        return [max(range(len(row)), key=row.__getitem__) for row in scores]

    def _in_batches(
        self,
        rows: Sequence[Any],
        run: Callable[[Sequence[Any]], list[Any]],
        name: Callable[[Sequence[Any]], str],
        progress: Progress | None,
    ) -> list[Any]:
        if len(rows) % self.batch_size:
            log.info(
                "%d rows in batches of %d: the last has %d, and so a capacity of its own",
                len(rows),
                self.batch_size,
                len(rows) % self.batch_size,
            )
        done: list[Any] = []
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            forwards = 0 if self.attached is None else self.attached.num_forwards
            key = f"{run.__name__}:{forwards}:{name(batch)}"
            start_s = time.perf_counter()
            done += self._ledger.run(key, lambda batch=batch: run(batch))  # type: ignore[misc]
            self._seconds += time.perf_counter() - start_s
            if progress is not None:
                progress(len(done), len(rows))
        return done

    def _answer_batch(self, prompts: Sequence[Prompt]) -> list[str]:
        encoded = self._on_device(self._encoder.encode(prompts, side="left"))
        limits = [prompt.max_new_tokens for prompt in prompts]
        pad, end = self._encoder.pad_token_id, self._encoder.end_token_id
        ids_BN = generate(self.model, encoded, limits, pad=pad, end=end)
        return [text.strip() for text in self._encoder.decode(ids_BN)]

    @torch.inference_mode()
    def _likelihood_batch(self, pairs: Sequence[tuple[Prompt, str]]) -> list[dict[str, Any]]:
        # padded on the right: a plain forward numbers positions from the row's start in every architecture
        prompts, texts = zip(*pairs, strict=True)
        encoded = self._on_device(self._encoder.encode(prompts, side="right", continuations=texts))
        lengths = encoded["attention_mask"].sum(1).tolist()
        spans = [
            range(length - self._encoder.num_tokens(prompt, text), length)
            for (prompt, text), length in zip(pairs, lengths, strict=True)
        ]
        first = min(span.start for span in spans) - 1
        logits_BSV, ids_BS = self._logits(encoded, first), encoded["input_ids"]
        scored = [
            _likelihood(
                logits_BSV[row, span.start - 1 - first : span.stop - 1 - first],
                ids_BS[row, span.start : span.stop],
            )
            for row, span in enumerate(spans)
        ]
        return [dataclasses.asdict(likelihood) for likelihood in scored]

    def _logits(self, encoded: Any, first: int) -> Tensor:
        """Return the logits [B, S - first, V] from position `first` on, computing no others where the model can."""
        last = encoded["input_ids"].shape[1] - first
        names = inspect.signature(self.model.forward).parameters
        keep = {"logits_to_keep": last} if "logits_to_keep" in names else {}
        logits_BSV: Tensor = self.model(**encoded, **keep).logits
        return logits_BSV[:, -last:]

    def _on_device(self, encoded: Any) -> Any:
        parameter = next(self.model.parameters())
        return encoded.to(device=parameter.device, dtype=getattr(self.model, "dtype", parameter.dtype))


def _likelihood(logits_SV: Tensor, ids_S: Tensor) -> Likelihood:
    logprobs_SV = torch.log_softmax(logits_SV.float(), dim=-1)
    total = logprobs_SV.gather(1, ids_S[:, None]).sum()
    is_greedy = bool((logits_SV.argmax(-1) == ids_S).all())
    return Likelihood(logprob=float(total), is_greedy=is_greedy, num_tokens=ids_S.shape[0])


@contextmanager
def open_answerer(
    config: EvalConfig,
    *,
    journal: Journal | None = None,
    device: str | torch.device | None = None,
    loaded: tuple[nn.Module, Any] | None = None,
) -> Iterator[Answerer]:
    """Load the configured model with its processor and attach its policy, until the block is left.

    device: where the model goes; None: the first GPU where there is one, else the CPU.
    loaded: the model and its processor where the caller has them.

    Raises ConfigError for a model or a policy that cannot be had, UnsupportedModelError for one that is no
    vision-language MoE.
    """
    policy = config.build_policy()
    model, processor = loaded if loaded is not None else _load(config, device)
    placement = None if config.placement is None else Placement.of(config.placement, config.num_devices)
    pad = Encoder(processor).pad_token_id if config.pad_token_id is None else config.pad_token_id
    with attach(
        model,
        policy,
        num_devices=config.num_devices,
        placement=placement,
        min_tokens=config.min_tokens,
        phases=config.phases,
        seed=config.seed,
        pad_token_id=pad,
        split="modality" if SpecialTokens.of(model, None).image else "none",
    ) as attached:
        yield Answerer(model, processor, batch_size=config.batch_size, attached=attached, journal=journal)


def _load(config: EvalConfig, device: str | torch.device | None) -> tuple[nn.Module, Any]:
    path = checkpoint_of(config.model)
    processor = load_processor(path)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return load(path, dtype=config.dtype, quantization=config.quantization, device=device), processor
