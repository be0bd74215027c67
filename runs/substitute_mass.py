"""docs/results.md, "Policies on the bundled model": how much of the lost gate score Fill's substitutes carry.

Run: python runs/substitute_mass.py
"""

from __future__ import annotations

from collections import Counter

import evenmoe
from evenmoe.evaluation.batches import make_batches
from evenmoe.evaluation.quality import measure_quality
from evenmoe.evaluation.texts import cut_windows, heldout_texts
from evenmoe.models.session import LayerStep
from evenmoe.routing import Fill


def main() -> None:
    model, tokenizer = evenmoe.load_bundled("text"), evenmoe.bundled_tokenizer("text")
    windows = cut_windows(heldout_texts(), tokenizer, num_windows=64, window_tokens=256)
    seen: Counter[str] = Counter()

    def add(step: LayerStep) -> None:
        for name, pairs_TE in (
            ("lost", step.chosen_TE & ~step.kept_TE),
            ("substitutes", step.kept_TE & ~step.chosen_TE),
        ):
            seen[f"{name} pairs"] += int(pairs_TE.sum())
            seen[f"{name} score"] += float(step.scores_TE[pairs_TE].sum())

    with evenmoe.attach(model, Fill(gamma=1.0), num_devices=8) as attached, attached.observed(add):
        measure_quality(model, make_batches(windows, 32, "mixed", seed=0), attached)
    for name in ("lost", "substitutes"):
        print(
            f"{name}: {seen[f'{name} pairs']} pairs, mean score {seen[f'{name} score'] / seen[f'{name} pairs']:.3f}"
        )
    print(
        f"substitutes carry {100 * seen['substitutes score'] / seen['lost score']:.1f}% of the score that was lost"
    )


if __name__ == "__main__":
    main()
