"""The handwritten digits for training: those of scikit-learn that the package does not hold out."""

import numpy as np
from sklearn.datasets import load_digits

from evenmoe.evaluation.scenes import Digits, heldout_digits
from tools.errors import RecipeError
from tools.vlm_model.recipe import Recipe


def training_digits(recipe: Recipe) -> Digits:
    """The first digits in scikit-learn's order. Raises `RecipeError` unless the rest are exactly those that ship."""
    data = load_digits()
    images, labels = data.images.astype(np.uint8), data.target.astype(np.uint8)
    held_out, start = heldout_digits(), recipe.num_train_digits
    same = np.array_equal(images[start:], held_out.images) and np.array_equal(labels[start:], held_out.labels)
    if not same:
        raise RecipeError(f"scikit-learn's digits from {start} on are not the held-out digits of evenmoe")
    return Digits(images=images[:start], labels=labels[:start])
