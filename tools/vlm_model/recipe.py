"""Every number of the recipe, in one place."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What the bundled vision-language model is made with. The checkpoint is made from nothing else."""

    seed: int = 0
    # data
    num_train_digits: int = 1_400
    """Of the 1797 digits that scikit-learn ships; the others are held out."""
    images_per_step: int = 16
    questions_per_image: int = 8
    kind_weights: dict[str, float] = field(
        default_factory=lambda: {
            "colour": 1.0, "shape": 1.0, "background": 0.3, "count": 0.7, "present": 0.5, "digit": 1.0, "row": 1.0,
            "column": 1.0, "same_colour": 1.5, "same_shape": 1.5, "count_colour": 1.0, "plus": 1.2, "greater": 1.0,
            "not_colour": 1.0, "beside": 2.0, "further": 2.0,
        }
    )  # fmt: skip
    """How often a kind is asked, among the kinds that a scene allows."""
    late_kind_weights: dict[str, float] = field(
        default_factory=lambda: {
            "colour": 1.0, "shape": 1.0, "background": 0.2, "count": 0.7, "present": 0.5, "digit": 1.5, "row": 0.6,
            "column": 0.6, "same_colour": 2.0, "same_shape": 1.2, "count_colour": 1.5, "plus": 1.2, "greater": 1.2,
            "not_colour": 1.2, "beside": 5.0, "further": 0.8,
        }
    )  # fmt: skip
    """The same from `late_step` on, when places are known and comparing them is what is left to learn."""
    # model
    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 4
    head_size: int = 32
    num_experts: int = 32
    num_experts_per_token: int = 4
    expert_size: int = 64
    max_positions: int = 512
    rope_theta: float = 10_000.0
    rope_sections: tuple[int, int, int] = (6, 5, 5)
    patch_size: int = 8
    merge_size: int = 2
    vision_size: int = 96
    vision_inner_size: int = 192
    vision_depth: int = 3
    vision_heads: int = 3
    deepstack_layers: tuple[int, ...] = (0, 1)
    initializer_range: float = 0.04
    position_scale: float = 6.0
    """How much larger than the other weights the vision tower's position embedding starts."""
    aux_loss_coefficient: float = 0.0
    # training
    vision_steps: int = 1_500
    """Steps at the start that train the vision tower alone, through the image head."""
    crowded_share: float = 0.75
    """Of those steps' images: every cell may be full, mostly of digits, which take the most practice."""
    num_steps: int = 6_800
    """All steps, those of the vision tower included."""
    late_step: int = 3_500
    """From here on the later kind weights hold, and the pair head asks as well."""
    learning_rate: float = 1e-3
    adam_betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    warmup_steps: int = 200
    decay_fraction: float = 0.4
    """Of all steps, at the end: the learning rate falls linearly to zero."""
    max_gradient_norm: float = 1.0
    end_token_weight: float = 0.1
    image_head_weight: float = 1.0
    mention_head_weight: float = 0.5
    mention_layers: tuple[int, ...] = (1, 2)
    """After these layers the hidden state of an object's name is asked where and what the object is."""
    pair_head_weight: float = 0.5
    pair_layer: int = 2
    """After this layer the hidden state of a second object's name is asked how the two objects compare."""
    log_every: int = 50
    evaluate_every: int = 500
    save_every: int = 500

    def as_dict(self) -> dict[str, Any]:
        """The recipe as data."""
        return asdict(self)
