"""Training: fixed steps, fixed seeds, a checkpoint every so often, and the same weights after an interruption."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from evenmoe.evaluation.scenes import Digits, Item
from tools.checkpoints import load_state, save_state
from tools.text_model.experts import register_sorted_experts
from tools.vlm_model.batches import IGNORED, Batch, batch_at
from tools.vlm_model.heads import ImageHead, MentionHead, PairHead
from tools.vlm_model.measure import accuracy_by, answer_items
from tools.vlm_model.model import build_model
from tools.vlm_model.packed import read, see
from tools.vlm_model.recipe import Recipe

logger = logging.getLogger(__name__)


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Share of the peak learning rate: a warm-up for each of the two stages, a plateau, then linear to zero."""
    in_stage = step if step < recipe.vision_steps else step - recipe.vision_steps
    warmup = min(1.0, (in_stage + 1) / recipe.warmup_steps)
    decay = min(1.0, (recipe.num_steps - step) / (recipe.decay_fraction * recipe.num_steps))
    return min(warmup, decay)


class Trainer:
    """The state of a run: weights, optimiser, step and log; saved to and restored from one file."""

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: PreTrainedTokenizerFast,
        digits: Digits,
        watched: list[Item],
        folder: Path,
    ):
        self.recipe, self.tokenizer, self.digits = recipe, tokenizer, digits
        self.watched, self.folder = watched, folder
        self.model = build_model(recipe, tokenizer)
        self.model.set_experts_implementation(register_sorted_experts())
        self.image_head = ImageHead(recipe.hidden_size)
        self.mention_heads = nn.ModuleList(MentionHead(recipe.hidden_size) for _ in recipe.mention_layers)
        self.pair_head = PairHead(recipe.hidden_size)
        self.all = nn.ModuleList([self.model, self.image_head, self.mention_heads, self.pair_head])
        self.optimizer = build_optimizer(self.all, recipe)
        self.step = 0
        self.seconds = 0.0
        self.log: list[dict[str, Any]] = []

    @property
    def checkpoint(self) -> Path:
        """Where the state is saved."""
        return self.folder / "training_state.pt"

    def save(self) -> None:
        """Write the state; an interruption leaves the previous one whole."""
        state = {
            "step": self.step, "seconds": self.seconds,
            "log": json.dumps(self.log), "weights": self.all.state_dict(), "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip
        save_state(self.checkpoint, self.recipe.as_dict(), state)

    def resume(self) -> bool:
        """Restore the state if there is one of this very recipe; say whether there was."""
        state = load_state(self.checkpoint, self.recipe.as_dict())
        if state is None:
            return False
        self.step, self.seconds, self.log = state["step"], state["seconds"], json.loads(state["log"])
        self.all.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        return True

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The losses of a batch, in nats: image head; after the vision stage mentions and answers; late, pairs."""
        image_BNH, deep = see(self.model, batch.pixels_BYX3)
        losses = {"image": self.image_head(image_BNH, batch)}
        if self.step < self.recipe.vision_steps:
            return losses
        hidden_AH, outputs = read(self.model, batch, image_BNH, deep)
        seen = [outputs[i] for i in self.recipe.mention_layers]
        mentions = [head(hidden, batch) for head, hidden in zip(self.mention_heads, seen, strict=True)]
        losses["mentions"] = torch.stack(mentions).mean()
        if self.step >= self.recipe.late_step:
            losses["pairs"] = self.pair_head(outputs[self.recipe.pair_layer], batch)
        targets = batch.targets_BS[batch.targets_BS != IGNORED]
        nats = cross_entropy(self.model.lm_head(hidden_AH), targets, reduction="none")
        is_end = targets == self.tokenizer.eos_token_id
        losses["answers"], losses["ends"] = nats[~is_end].mean(), nats[is_end].mean()
        return losses

    def train_step(self) -> dict[str, float]:
        """One optimiser step; return its losses."""
        recipe = self.recipe
        with_questions = self.step >= recipe.vision_steps
        batch = batch_at(self.step, recipe, self.tokenizer, self.digits, with_questions=with_questions)
        weights = {"answers": 1.0, "ends": recipe.end_token_weight, "image": recipe.image_head_weight,
                   "mentions": recipe.mention_head_weight, "pairs": recipe.pair_head_weight}  # fmt: skip
        losses = self.losses(batch)
        total: Any = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.all.parameters(), recipe.max_gradient_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * learning_rate_factor(self.step, recipe)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return {name: loss.item() for name, loss in losses.items()}

    def run(self, until: int | None = None, on_save: Callable[["Trainer"], None] | None = None) -> None:
        """Train to the recipe's last step (or `until`), logging, measuring and saving on the way."""
        recipe, last = self.recipe, self.recipe.num_steps if until is None else until
        rows: list[dict[str, float]] = []
        while self.step < last:
            start = time.perf_counter()
            rows.append(self.train_step())
            self.seconds += time.perf_counter() - start
            if self.step in (recipe.vision_steps, last) or self.step % recipe.log_every == 0:
                self._record(rows)
                rows.clear()
            if self.step % recipe.save_every == 0 or self.step == last:
                self.save()
                if on_save is not None:
                    on_save(self)

    def _record(self, rows: list[dict[str, float]]) -> None:
        recipe = self.recipe
        row: dict[str, Any] = {"step": self.step, "seconds": self.seconds}
        row |= {name: sum(r[name] for r in rows) / len(rows) for name in rows[-1] if name in rows[0]}
        if self.step > recipe.vision_steps and self.step % recipe.evaluate_every == 0:
            answers = answer_items(self.model, self.tokenizer, self.watched)
            row["accuracy"] = accuracy_by(self.watched, answers, "kind")
        self.log.append(row)
        left = (recipe.num_steps - self.step) * self.seconds / self.step / 60
        numbers = " ".join(
            f"{name} {value:.3g}"
            for name, value in row.items()
            if isinstance(value, float) and name != "seconds"
        )
        logger.info(
            "step %d/%d, %.0f s, %.0f min left: %s", self.step, recipe.num_steps, self.seconds, left, numbers
        )
        if "accuracy" in row:
            logger.info("%s", " ".join(f"{name} {value:.2f}" for name, value in row["accuracy"].items()))


def build_optimizer(modules: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; matrices decay, vectors and the position embedding do not."""
    decayed: list[nn.Parameter] = []
    other: list[nn.Parameter] = []
    for name, parameter in modules.named_parameters():
        (decayed if parameter.ndim >= 2 and "embed" not in name else other).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": other, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        groups, lr=recipe.learning_rate, betas=recipe.adam_betas, weight_decay=recipe.weight_decay, fused=True
    )
