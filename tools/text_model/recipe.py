"""Every number of the recipe, in one place."""

from dataclasses import asdict, dataclass, field
from typing import Any

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|padding|>"
_TEXT_SETTINGS = {
    "seed", "held_out_fraction", "num_arithmetic_documents", "max_train_bytes", "held_out_bytes",
    "max_held_out_document_bytes", "overlap_words", "vocab_size", "tokenizer_bytes",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the bundled text model is made with. The card prints it, the checkpoint is made from nothing else."""

    seed: int = 0
    # text
    held_out_fraction: float = 0.045
    num_arithmetic_documents: int = 5_000
    max_train_bytes: int = 8_000_000
    """Per domain; documents beyond it (in hash order) are left out."""
    held_out_bytes: int = 60_000
    """Per domain, as shipped."""
    max_held_out_document_bytes: int = 6_000
    overlap_words: int = 13
    """A held-out passage that shares a run of this many words with any training text is dropped."""
    # tokenizer
    vocab_size: int = 4096
    tokenizer_bytes: int = 2_000_000
    """Of each domain's training text."""
    # model
    hidden_size: int = 192
    intermediate_size: int = 96
    num_layers: int = 4
    num_heads: int = 6
    num_experts: int = 32
    num_experts_per_token: int = 4
    max_positions: int = 1024
    initializer_range: float = 0.04
    tie_embeddings: bool = True
    aux_loss_coefficient: float = 0.01
    # training
    num_steps: int = 1_500
    sequence_length: int = 512
    sequences_per_step: dict[str, int] = field(
        default_factory=lambda: {
            "python": 2, "go": 1, "scripture": 1, "dictionary": 2, "german": 2, "french": 2, "sql": 1, "arithmetic": 1,
        }
    )  # fmt: skip
    muon_learning_rate: float = 0.03
    muon_momentum: float = 0.95
    newton_schulz_steps: int = 5
    adam_learning_rate: float = 0.004
    adam_betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    warmup_steps: int = 40
    plateau_fraction: float = 0.4
    """Of all steps, before the learning rate falls linearly to zero."""
    max_gradient_norm: float = 1.0
    log_every: int = 20
    evaluate_every: int = 100
    save_every: int = 100

    @property
    def domains(self) -> list[str]:
        """The domains in the order of training and of every table."""
        return list(self.sequences_per_step)

    @property
    def tokens_per_step(self) -> int:
        """Training tokens in one optimiser step."""
        return sum(self.sequences_per_step.values()) * self.sequence_length

    def text_settings(self) -> dict[str, Any]:
        """The part that decides the corpus and the tokenizer."""
        return {name: value for name, value in asdict(self).items() if name in _TEXT_SETTINGS}

    def as_dict(self) -> dict[str, Any]:
        """The recipe as data."""
        return asdict(self)
