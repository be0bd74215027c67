"""EvenMoELM: lm-eval's Hugging Face model under a routing policy, in fixed batches, with padding that never counts."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from lm_eval import utils
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from torch import Tensor, nn

from evenmoe.errors import ConfigError
from evenmoe.evaluation.checkpoints import checkpoint_of
from evenmoe.evaluation.ledger import BatchLedger
from evenmoe.evaluation.lm_eval import batching
from evenmoe.evaluation.lm_eval.batching import Asked, ScoredRow
from evenmoe.evaluation.lm_eval.options import check_harness_options, fixed_batch_size, resolve_policy
from evenmoe.evaluation.lm_eval.pretrained import open_pretrained, padding_id
from evenmoe.evaluation.lm_eval.quiet import no_hints
from evenmoe.evaluation.lm_eval.running import BatchRunner
from evenmoe.evaluation.lm_eval.scoring import last_logits, score_rows
from evenmoe.evaluation.lm_eval.stopping import RowStop, end_tokens, stopping_rows
from evenmoe.evaluation.specs import PolicySpec
from evenmoe.loads import ExpertLoads
from evenmoe.models.attach import attach
from evenmoe.models.loading import Quantization, load_tokenizer
from evenmoe.models.settings import Phases, PlacementRows
from evenmoe.placement import Placement
from evenmoe.routing import Policy
from evenmoe.simulation.studies.journal import Journal


@register_model("evenmoe")
class EvenMoELM(HFLM):  # type: ignore[misc]
    """A causal language model under a routing policy, as lm-eval wants it.

    Against lm-eval's own model: batches have one fixed size and a documented order; padding is not routed, counted or
    given room, though the model is called as there (no mask for log-likelihoods); a row that has reached its stop
    string is padding from then on; only logits that are scored are computed. Without a limit the log-likelihoods are
    those of lm-eval's own model to the bit.
    """

    def __init__(
        self,
        pretrained: str | nn.Module,
        *,
        policy: str | PolicySpec | Policy = "baseline",
        gamma: float | str | None = None,
        devices: int = 8,
        scope: str | None = None,
        level: str | None = None,
        isolation: str | None = None,
        placement: Placement | PlacementRows | None = None,
        phases: Phases = "both",
        min_tokens: int | None = None,
        pad_token_id: int | None = None,
        seed: int = 0,
        dtype: torch.dtype | str = "auto",
        quantization: Quantization | None = None,
        device: str | None = None,
        trust_remote_code: bool = False,
        batch_size: int | str = 16,
        journal: Journal | None = None,
        **harness: Any,
    ) -> None:
        """Load the model, unless it is given loaded, and attach the policy; see `evenmoe.attach` for its options.

        pretrained: a folder, a Hub name, "bundled:text", or a loaded model; to a loaded one dtype, quantization, device
            and trust_remote_code must not be given.
        policy: "name" or "name:option=value", a PolicySpec, or a policy of evenmoe.routing. scope, level and isolation
            None: the policy's own.
        pad_token_id: the id that rows are fed once they are done; None: the tokenizer's.
        batch_size: fixed; "auto" is refused.
        journal: finished batches are kept there, and taken from there; see BatchLedger.
        harness: options of lm-eval's own model, those of `options.HARNESS_OPTIONS`.

        Raises ConfigError for an unknown option and for one that cannot act, and what `load` and `attach` raise.
        """
        check_harness_options(harness, _own_options())
        size = fixed_batch_size(batch_size)
        resolved = resolve_policy(policy, gamma, {"scope": scope, "level": level, "isolation": isolation})
        model, name = open_pretrained(
            pretrained,
            dtype=dtype,
            quantization=quantization,
            device=device,
            trust_remote_code=trust_remote_code,
        )
        tokenizer = harness.pop("tokenizer", None) or name
        if isinstance(tokenizer, str):
            tokenizer = load_tokenizer(checkpoint_of(tokenizer), trust_remote_code=trust_remote_code)
        with no_hints(
            "lm_eval.models.huggingface"
        ):  # at length, that a loaded model ignores options of loading
            super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=size, **harness)
        self._pad = padding_id(self.tokenizer, pad_token_id)
        self.attached = attach(
            model,
            resolved,
            num_devices=devices,
            placement=placement,
            phases=phases,
            min_tokens=min_tokens,
            seed=seed,
            pad_token_id=self._pad,
        )
        self.runner = BatchRunner(BatchLedger(self.attached, journal))
        self._seed, self._name = seed, name

    def __enter__(self) -> EvenMoELM:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.detach()

    def detach(self) -> None:
        """Take the policy off the model, which then is exactly as before. Raises AttachError if it is already off."""
        self.attached.detach()

    @property
    def loads(self) -> ExpertLoads | None:
        """What was asked of the experts and what ran, in all batches so far; None before the first."""
        return self.runner.ledger.loads

    def begin(self, task: str) -> None:
        """Start a task: its loads are tagged by name, and draws at random begin anew, as if it ran alone."""
        self.runner.begin(task)

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval records about the model; it would ask the Hub for a commit here, also for a local folder."""
        return {
            "model_name": self._name,
            "model_num_parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "model_dtype": str(getattr(self.model, "dtype", "")),
            "evenmoe": self.attached.describe(),
        }

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Raises ConfigError: answers kept by lm-eval would stand for other batches, and for other policies."""
        raise ConfigError(
            "use_cache", True, "left out: an answer depends on the policy and on its whole batch"
        )

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """As lm-eval's: (log-likelihood, whether greedy) of each (context, continuation)."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm or self.runner.progress is not None)

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        asked = [_asked(request) for request in requests]
        rows = batching.plan_rows(asked, max_length=self.max_length, share=self.logits_cache)
        batches = batching.cut(rows, self.batch_size)
        answers = self._score("loglikelihood", batches, batching.LIKELIHOOD_ORDER, len(asked), disable_tqdm)
        return [answers[index] for index in range(len(asked))]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """As lm-eval's: the log-likelihood of each whole text, in windows that overlap as little as they can."""
        windows = [list(self._windows(request.args[0])) for request in requests]
        asked = [_asked((None, *window)) for of_text in windows for window in of_text]
        batches = []
        for indices in batching.cut(range(len(asked)), self.batch_size):
            rows = batching.plan_rows(
                [asked[index] for index in indices], max_length=self.max_length, share=self.logits_cache
            )
            batches.append([row.moved(indices[0]) for row in rows])
        found = self._score(
            "loglikelihood_rolling", batches, batching.ROLLING_ORDER, len(asked), disable_tqdm
        )
        values = iter([found[index][0] for index in range(len(asked))])
        return [sum(next(values) for _ in of_text) for of_text in windows]

    def _windows(self, text: str) -> Iterator[tuple[list[int], list[int]]]:
        windows = utils.get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        return map(utils.make_disjoint_window, windows)

    def _score(
        self, kind: str, batches: list[list[ScoredRow]], order: str, num_requests: int, disable_tqdm: bool
    ) -> dict[int, tuple[float, bool]]:
        """Answers by request."""
        plain = [[[row.input_ids, row.continuations] for row in batch] for batch in batches]
        sharing = batching.SHARING if self.logits_cache else None
        answers: dict[int, tuple[float, bool]] = {}

        def answer(index: int) -> list[Any]:
            scores = score_rows(batches[index], self.device, self._last_logits, self.softmax_dtype)
            return [[[likelihood.hex(), greedy] for likelihood, greedy in row] for row in scores]

        def take(index: int, found: list[Any]) -> int:
            for row, scores in zip(batches[index], found, strict=True):
                for request, (likelihood, greedy) in zip(row.requests, scores, strict=True):
                    answers[request] = (float.fromhex(likelihood), bool(greedy))
            return len(answers)

        num_cut = sum(row.is_cut for batch in batches for row in batch)
        how = {"order": order, "sharing": sharing, "num_cut_to_fit": num_cut}
        shows_bar = not (disable_tqdm or self.runner.progress)
        self.runner.run(kind, plain, answer, take, num_requests=num_requests, how=how, shows_bar=shows_bar)
        return answers

    @torch.no_grad()
    def _last_logits(self, ids_BS: Tensor, real_BS: Tensor, num_last: int) -> Tensor:
        with self.attached.masked(real_BS), self._tagged(ids_BS.shape[0]), self._autocast():
            return last_logits(self.model, ids_BS, num_last)

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """As lm-eval's: what the model says after each context, up to a stop string."""
        asked = [request.args for request in requests]
        lengths = [len(self.tok_encode(context)) for context, _ in asked]
        groups: dict[str, list[int]] = {}
        for index, (_, settings) in enumerate(asked):
            groups.setdefault(json.dumps(settings, sort_keys=True, default=str), []).append(index)
        batches = []
        for group in groups.values():
            ordered = sorted(group, key=lambda index: (-lengths[index], asked[index][0], index))
            batches += batching.cut(ordered, self.batch_size)
        texts: dict[int, str] = {}

        def answer(index: int) -> list[str]:
            contexts = [asked[request][0] for request in batches[index]]
            return self._generate(contexts, asked[batches[index][0]][1], index)

        def take(index: int, found: list[Any]) -> int:
            texts.update(zip(batches[index], found, strict=True))
            return len(texts)

        plain = [
            [[asked[index][0], json.dumps(asked[index][1], default=str)] for index in batch]
            for batch in batches
        ]
        cut = [length > self._room(settings) for length, (_, settings) in zip(lengths, asked, strict=True)]
        how = {"order": batching.GENERATION_ORDER, "sharing": None, "num_cut_to_fit": sum(cut)}
        shows_bar = not (disable_tqdm or self.runner.progress)
        self.runner.run(
            "generate_until", plain, answer, take, num_requests=len(asked), how=how, shows_bar=shows_bar
        )
        return [texts[index] for index in range(len(asked))]

    def _generate(self, contexts: list[str], settings: Mapping[str, Any], batch: int) -> list[str]:
        kept = normalize_gen_kwargs(settings, self.max_gen_toks)
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        stops = handle_stop_sequences(kept.pop("until", None), eos=eos)
        num_new, room = kept.pop("max_gen_toks"), self._room(settings)
        ids_BS, mask_BS = self.tok_batch_encode(contexts, left_truncate_len=room, truncation=self.truncation)
        max_length = kept.pop("max_length", ids_BS.shape[1] + num_new)
        with torch.random.fork_rng():
            torch.manual_seed(self._seed + batch)  # for tasks that sample: the same draws whatever ran before
            said_BS = self._model_generate(
                context=ids_BS.to(self.device),
                attention_mask=mask_BS.to(self.device),
                stop=stops,
                max_length=max_length,
                **kept,
            )
        return [self._said(row[ids_BS.shape[1] :], stops) for row in said_BS.tolist()]

    def _room(self, settings: Mapping[str, Any]) -> int:
        """Tokens of context that fit beside what may be generated."""
        num_new = int(normalize_gen_kwargs(dict(settings), self.max_gen_toks)["max_gen_toks"])
        if num_new >= self.max_length:
            raise ConfigError("max_gen_toks", num_new, f"less than the model's max_length {self.max_length}")
        return int(self.max_length) - num_new

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **settings: Any) -> Tensor:
        if not settings.get("do_sample"):
            settings = settings | {"do_sample": False}
            settings.pop("temperature", None)
        rows = RowStop(stop, end_tokens(self.model), self.tokenizer, context.shape[1], self._pad)
        with stopping_rows(self.model, rows) as criteria, self._tagged(context.shape[0]), self._autocast():
            generated: Tensor = self.model.generate(
                input_ids=context,
                max_length=max_length,
                stopping_criteria=criteria,
                pad_token_id=self._pad,
                use_cache=True,
                **settings,
            )
        return generated

    def _said(self, tokens: list[int], stops: list[str]) -> str:
        end = self.think_end_token
        if isinstance(end, int) and end in tokens:
            tokens = tokens[len(tokens) - tokens[::-1].index(end) :]
        text = self.tok_decode(tokens)
        text = text.lstrip() if isinstance(end, int) else text
        said: str = postprocess_generated_text(
            generation=text, stop=stops, think_end_token=end if isinstance(end, str) else None
        )
        return said

    def _tagged(self, num_rows: int) -> Any:
        return self.attached.tagged([self.runner.task] * num_rows) if self.runner.task else nullcontext()

    def _autocast(self) -> Any:
        dtype = self.mixed_precision_dtype
        return torch.autocast(device_type=self.device.type, dtype=dtype, enabled=dtype is not None)


def _asked(request: Any) -> Asked:
    return Asked(context=tuple(request[1]), continuation=tuple(request[2]))


def _own_options() -> list[str]:
    parameters = inspect.signature(EvenMoELM.__init__).parameters
    return [name for name in parameters if name not in ("self", "harness")]
