"""The model card: `metrics.json` drawn as `README.md` and `training.svg`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.vlm_model.curve import curve_svg, family_lines

COMMAND = "python -m tools.vlm_model --work DIR --out DIR"


def write_card(out: Path) -> None:
    """Draw the card from the metrics in the same folder."""
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    (out / "training.svg").write_text(
        curve_svg(metrics["curve"], metrics["family_of_kind"]), encoding="utf-8"
    )
    (out / "README.md").write_text(card_text(metrics), encoding="utf-8")


def card_text(metrics: dict[str, Any]) -> str:
    """The whole card as Markdown."""
    recipe, share = metrics["recipe"], metrics["image_token_share"]
    fields = {name: value for name, value in recipe.items() if f"{{{name}" in CARD}
    return CARD.format(
        **fields, command=COMMAND, threads=metrics["threads"], cpus=metrics["cpus"],
        parameters=metrics["parameters"] / 1e6, items=metrics["held_out_items"],
        accuracy=metrics["accuracy"]["family"]["all"], blind=metrics["shuffled"]["family"]["all"],
        guessing=metrics["majority"]["family"]["all"], least=share["least"], mean=share["mean"],
        images=metrics["train_images"], questions=metrics["train_questions"],
        minutes=metrics["train_seconds"] / 60, memory=metrics["peak_memory_mib"],
        held_out_digits=1797 - recipe["num_train_digits"],
        max_imbalance=recipe["num_experts"] / recipe["num_experts_per_token"],
        versions=", ".join(f"{name} {version}" for name, version in metrics["versions"].items()),
        family_table=accuracy_table(metrics, "family"), kind_table=accuracy_table(metrics, "kind"),
        imbalance_table=imbalance_table(metrics), curve_table=curve_table(metrics),
    )  # fmt: skip


def accuracy_table(metrics: dict[str, Any], key: str) -> str:
    """Accuracy, and what guessing and looking at the wrong image give, a row per family or kind."""
    rows = [
        [name if key == "family" or name == "all" else f"{name} ({metrics['family_of_kind'][name]})",
         f"{accuracy:.1%}", f"{metrics['majority'][key][name]:.1%}", f"{metrics['shuffled'][key][name]:.1%}"]
        for name, accuracy in metrics["accuracy"][key].items()
    ]  # fmt: skip
    return table([key, "accuracy", "most common answer of each kind", "another item's image"], rows)


def imbalance_table(metrics: dict[str, Any]) -> str:
    """Peak expert over the mean, a row per sort of token, a column per layer."""
    layers = [f"layer {i}" for i in range(metrics["recipe"]["num_layers"])]
    rows = [[name, *(f"{peak:.2f}" for peak in peaks)] for name, peaks in metrics["imbalance"].items()]
    return table(["tokens", *layers], rows)


def curve_table(metrics: dict[str, Any]) -> str:
    """Accuracy by family where it was measured during training."""
    lines = family_lines(metrics["curve"], metrics["family_of_kind"])
    seconds = {row["step"]: row["seconds"] for row in metrics["curve"]}
    rows = [
        [str(step), f"{seconds[step] / 60:.0f}", *(f"{points[i][1]:.0%}" for points in lines.values())]
        for i, (step, _) in enumerate(lines["all"])
    ]
    return table(["step", "minutes", *lines], rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


CARD = """# The bundled vision-language model

A small Mixture-of-Experts vision-language model with Qwen3-VL-MoE's architecture, trained from scratch on drawn scenes
and handwritten digits, so that experiments on image and text tokens run offline. No auxiliary loss evens its experts
out. Every figure on this page is drawn from `metrics.json`, which the recipe's run wrote.

| | |
|---|---|
| architecture | `Qwen3VLMoeForConditionalGeneration`: hidden {hidden_size}, {num_layers} layers, {num_heads} heads of \
{head_size}, {num_experts} experts of {expert_size}, top-{num_experts_per_token}; vision tower of {vision_depth} \
layers of {vision_size}, patches of {patch_size} pixels |
| size | {parameters:.2f} M parameters, bfloat16 |
| held-out accuracy | **{accuracy:.1%}** over {items} questions; {guessing:.1%} by the most common answer, {blind:.1%} \
with another item's image |
| image tokens | at least {least:.0%} of a prompt with its answer, {mean:.0%} on average (36 an image) |
| training | {images:,} images and {questions:,} questions in {num_steps} steps, {minutes:.0f} minutes on {threads} \
thread(s) of a {cpus}-CPU machine shared with other work |
| versions | {versions} |

```python
from evenmoe.models.bundled import bundled_processor, load_bundled

model, processor = load_bundled("vlm"), bundled_processor("vlm")
```

The processor needs Pillow, and no torchvision.

## Accuracy on held-out scenes

Greedy answers, float32 arithmetic on the bfloat16 weights that ship, no capacity limit. The right answer is the most
likely token of the whole vocabulary, not the best among options. Families are named after the abilities of MMBench.

{family_table}

{kind_table}

The set is regenerated from a seed by `evenmoe.evaluation.scenes.heldout_items()`; within a kind every answer occurs
equally often, give or take one item. Scenes are drawn anew and their digits are held out.

## Expert imbalance

The busiest expert's load over the mean load, per layer, all held-out items as one batch; 1.00 is even,
{max_imbalance:.2f} is every token on the same experts.

{imbalance_table}

In the last layer nothing reads the image tokens' output, so training never taught that layer what to do with them.

## Training

![held-out accuracy](training.svg)

On the first 50 items of each family; a family is the mean over its kinds here.

{curve_table}

{vision_steps} steps train the vision tower alone, through a head on each image token that names what its cell
holds; {crowded_share:.0%} of their images are full of digits and shapes. Then all of it learns, {images_per_step}
images a step with {questions_per_image} questions each. The loss is that of the answers, plus {end_token_weight} x that
of the end token, {image_head_weight} x the image head, and {mention_head_weight} x a head that asks the last word of
each object's name where and what that object is. From step {late_step} on comparisons are asked more often, *beside*
most, and a head asks the last word of a second object's name how the two compare ({pair_head_weight} x its loss). All
heads are thrown away. AdamW, peak learning rate {learning_rate}, linear to zero over the last {decay_fraction:.0%}.
Seed {seed}.

## Data

Scenes are drawn by `evenmoe.evaluation.scenes` and free of rights. The digits are the 1797 of the test set of *Optical
Recognition of Handwritten Digits* (E. Alpaydin and C. Kaynak, 1998, UCI Machine Learning Repository,
<https://doi.org/10.24432/C50P49>), which scikit-learn ships; licence CC BY 4.0. Training uses the first
{num_train_digits}; the other {held_out_digits}, stored as 8 by 8 pixels in `evaluation/scenes/heldout_digits.npz`, are
held out. They are enlarged, coloured and placed in scenes.

## Make it again

```
{command}
```

scikit-learn is needed besides the package. The number of steps is fixed, never the time; an interrupted run goes on
from its last training checkpoint.

## Limits

A research instrument: it answers the kinds of question listed above, in one word, about scenes of this one sort, and
its vocabulary holds no other words. It was never trained on text alone, on several images, or on lists of options to
choose from by letter.
"""
