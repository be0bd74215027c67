"""Training: fixed steps, fixed seeds, a checkpoint every so often, and the same weights after an interruption."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import OlmoeForCausalLM
from transformers.models.olmoe.modeling_olmoe import load_balancing_loss_func

from tools.checkpoints import load_state, save_state
from tools.text_model.batches import batch_at
from tools.text_model.experts import register_sorted_experts
from tools.text_model.head import head_loss
from tools.text_model.measure import measure_quality
from tools.text_model.model import build_model
from tools.text_model.muon import Muon
from tools.text_model.recipe import Recipe
from tools.text_model.tokenizer import TokenIds

logger = logging.getLogger(__name__)
QUICK_SEQUENCES = 8
"""Held-out sequences per domain measured during training."""


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    """Share of the peak learning rate at a step: warm-up, plateau, then linear to zero."""
    plateau_end = recipe.plateau_fraction * recipe.num_steps
    warmup = min(1.0, (step + 1) / recipe.warmup_steps)
    decay = min(1.0, (recipe.num_steps - step) / (recipe.num_steps - plateau_end))
    return min(warmup, decay)


def build_optimizers(model: OlmoeForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of attention and experts, AdamW for embeddings, norms and routers."""
    fused, plain, other = [], [], []
    for name, parameter in model.named_parameters():
        if "gate_up_proj" in name:
            fused.append(parameter)
        elif "down_proj" in name or ("self_attn" in name and parameter.ndim == 2):
            plain.append(parameter)
        else:
            other.append(parameter)
    muon = Muon(
        [{"params": fused, "num_blocks": 2}, {"params": plain}],
        lr=recipe.muon_learning_rate, momentum=recipe.muon_momentum,
        num_steps=recipe.newton_schulz_steps, weight_decay=recipe.weight_decay,
    )  # fmt: skip
    adam = torch.optim.AdamW(
        other, lr=recipe.adam_learning_rate, betas=recipe.adam_betas, eps=1e-10, weight_decay=0.0, fused=True
    )
    optimizers: list[torch.optim.Optimizer] = [muon, adam]
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["peak_lr"] = group["lr"]
    return optimizers


class Trainer:
    """The state of a run: weights, optimisers, step and log; saved to and restored from one file."""

    def __init__(
        self, recipe: Recipe, streams: dict[str, TokenIds], held_out: dict[str, TokenIds], folder: Path
    ):
        self.recipe, self.streams, self.held_out, self.folder = recipe, streams, held_out, folder
        self.model = build_model(recipe)
        self.model.set_experts_implementation(register_sorted_experts())
        self.optimizers = build_optimizers(self.model, recipe)
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
            "log": json.dumps(self.log), "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }  # fmt: skip
        save_state(self.checkpoint, self.recipe.as_dict(), state)

    def resume(self) -> bool:
        """Restore the state if there is one of this very recipe; say whether there was."""
        state = load_state(self.checkpoint, self.recipe.as_dict())
        if state is None:
            return False
        self.step, self.seconds, self.log = state["step"], state["seconds"], json.loads(state["log"])
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return True

    def train_step(self) -> dict[str, float]:
        """One optimiser step; return its losses."""
        factor = learning_rate_factor(self.step, self.recipe)
        batch = batch_at(self.streams, self.step, self.recipe)
        out = self.model.model(input_ids=batch[:, :-1], output_router_logits=True, use_cache=False)
        loss = head_loss(
            out.last_hidden_state.flatten(0, 1), self.model.lm_head.weight, batch[:, 1:].flatten()
        )
        aux_loss = load_balancing_loss_func(
            out.router_logits, self.recipe.num_experts, self.recipe.num_experts_per_token
        )
        (loss + self.recipe.aux_loss_coefficient * aux_loss).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.max_gradient_norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return {"loss": loss.item(), "aux_loss": aux_loss.item(), "gradient_norm": norm.item(), "lr": factor}

    def run(self, until: int | None = None, on_save: Callable[["Trainer"], None] | None = None) -> None:
        """Train to the recipe's last step (or `until`), logging, measuring and saving on the way."""
        recipe, last = self.recipe, self.recipe.num_steps if until is None else until
        losses: list[float] = []
        while self.step < last:
            start = time.perf_counter()
            row: dict[str, Any] = dict(self.train_step())
            self.seconds += time.perf_counter() - start
            losses.append(row.pop("loss"))
            if self.step % recipe.log_every == 0 or self.step == last:
                row = {"step": self.step, "loss": sum(losses) / len(losses), **row, "seconds": self.seconds}
                losses.clear()
                if self.step % recipe.evaluate_every == 0 or self.step == last:
                    quality = measure_quality(
                        self.model, self.held_out, recipe.sequence_length, QUICK_SEQUENCES
                    )
                    row |= {
                        "held_out_loss": quality["all"]["loss"],
                        "held_out_accuracy": quality["all"]["accuracy"],
                    }
                self._record(row)
            if self.step % recipe.save_every == 0 or self.step == last:
                self.save()
                if on_save is not None:
                    on_save(self)

    def _record(self, row: dict[str, Any]) -> None:
        self.log.append(row)
        tokens = self.step * self.recipe.tokens_per_step
        left = (self.recipe.num_steps - self.step) * self.seconds / self.step / 60
        numbers = " ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "step")
        logger.info(
            "step %d/%d, %.0f tokens/s, %.0f min left: %s",
            self.step, self.recipe.num_steps, tokens / self.seconds, left, numbers,
        )  # fmt: skip
