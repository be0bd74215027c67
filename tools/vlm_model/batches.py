"""What each training step sees: a pure function of the step, so that a resumed run sees the same.

Several questions share one image: the image's tokens come once, then question after question, each followed by its
answer. A question sees the image and itself, and its positions go on from the image's, so every question is computed
as if it stood alone behind the image.

Shape letters: B images, N image tokens, S positions, M mentions, L pairs of them.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerFast

from evenmoe.evaluation.scenes import (
    COLOURS,
    GRID,
    IMAGE_SIZE,
    NOUNS,
    SHAPES,
    Digits,
    Question,
    Scene,
    SceneObject,
    ask_all,
    draw_scene,
    render,
)
from tools.vlm_model.recipe import Recipe
from tools.vlm_model.tokenizer import ASSISTANT, IMAGE, USER, VISION_END, VISION_START, words_of

IGNORED = -100
_TRAINING = 1
_FULL_CELLS = 0.8
FIRST_IMAGE_POSITION = 2


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's images and questions.

    pixels_BYX3: uint8. ids_BS: tokens. segments_BS: 0 for image and what surrounds it, then the question's number
    from 1, one more for padding. positions_3BS: temporal, vertical and horizontal. targets_BS: the token to predict
    at a position, or -100. image_labels_BN5: noun, colour, digit, row, column of the cell that an image token lies
    in, -100 for what a cell has not. mentions_M2: (image, position) of each object name's last word.
    mention_labels_M4: its row, column, noun, colour. pairs_L2: the two mentions of each question that has two.
    """

    pixels_BYX3: npt.NDArray[np.uint8]
    ids_BS: torch.Tensor
    segments_BS: torch.Tensor
    positions_3BS: torch.Tensor
    targets_BS: torch.Tensor
    image_labels_BN5: torch.Tensor
    mentions_M2: torch.Tensor
    mention_labels_M4: torch.Tensor
    pairs_L2: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A scene, its picture, and the questions asked about it."""

    scene: Scene
    image: npt.NDArray[np.uint8]
    questions: tuple[Question, ...]


def batch_at(
    step: int,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    digits: Digits,
    *,
    with_questions: bool = True,
) -> Batch:
    """The images and questions of a step; without questions, most images are crowded."""
    rng = np.random.default_rng([recipe.seed, _TRAINING, step])
    samples = []
    for _ in range(recipe.images_per_step):
        crowded = not with_questions and rng.random() < recipe.crowded_share
        scene = draw_crowd(rng) if crowded else draw_scene(rng)
        image = render(scene, digits, rng)
        questions = choose_questions(scene, recipe, rng, step) if with_questions else ()
        samples.append(Sample(scene=scene, image=image, questions=questions))
    return pack(samples, recipe, tokenizer)


def draw_crowd(rng: np.random.Generator) -> Scene:
    """A scene with something in most of its cells, every other time a digit."""
    objects = []
    for cell in range(GRID * GRID):
        if rng.random() < _FULL_CELLS:
            noun = "digit" if rng.random() < 0.5 else SHAPES[int(rng.integers(len(SHAPES)))]
            digit = int(rng.integers(10)) if noun == "digit" else None
            colour = COLOURS[int(rng.integers(len(COLOURS)))]
            row, column = divmod(cell, GRID)
            objects.append(SceneObject(noun=noun, colour=colour, row=row, column=column, digit=digit))
    return Scene(background="dark" if rng.random() < 0.5 else "light", objects=tuple(objects))


def choose_questions(
    scene: Scene, recipe: Recipe, rng: np.random.Generator, step: int = 0
) -> tuple[Question, ...]:
    """Questions of kinds drawn by weight; within a kind every answer it can have here is equally likely."""
    by_kind: dict[str, dict[str, list[Question]]] = {}
    for question in ask_all(scene):
        by_kind.setdefault(question.kind, {}).setdefault(question.answer, []).append(question)
    kinds = list(by_kind)
    kind_weights = recipe.kind_weights if step < recipe.late_step else recipe.late_kind_weights
    weights = np.array([kind_weights[kind] for kind in kinds])
    chosen = []
    for i in rng.choice(len(kinds), recipe.questions_per_image, p=weights / weights.sum()):
        answers = list(by_kind[kinds[i]].values())
        same_answer = answers[int(rng.integers(len(answers)))]
        chosen.append(same_answer[int(rng.integers(len(same_answer)))])
    return tuple(chosen)


def image_side(recipe: Recipe) -> int:
    """Image tokens along a side."""
    return IMAGE_SIZE // (recipe.patch_size * recipe.merge_size)


def pack(samples: list[Sample], recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Batch:
    """Lay out samples as one batch, padded on the right."""
    side = image_side(recipe)
    ids = _id_of(tokenizer)
    prefix = [ids[USER], ids[VISION_START], *[ids[IMAGE]] * side * side, ids[VISION_END]]
    rows, mentions, mention_labels = [], [], []
    for b, sample in enumerate(samples):
        row, spots = _lay_out(sample, prefix, side, ids)
        rows.append(row)
        for position, thing in spots:
            found = sample.scene.objects[thing]
            mentions.append((b, position))
            labels = (found.row, found.column, NOUNS.index(found.noun), COLOURS.index(found.colour))
            mention_labels.append(labels)
    length = max(len(row) for row in rows)
    num_segments = max(len(sample.questions) for sample in samples) + 1
    padding = [ids[tokenizer.pad_token], num_segments, 0, IGNORED]
    table = torch.tensor([row + [padding] * (length - len(row)) for row in rows])
    positions_3BS = table[:, :, 2].expand(3, -1, -1).clone()
    grid_2N = torch.from_numpy(np.indices((side, side)).reshape(2, 1, -1)) + FIRST_IMAGE_POSITION
    positions_3BS[1:, :, 2 : 2 + side * side] = grid_2N
    return Batch(
        pixels_BYX3=np.stack([sample.image for sample in samples]), ids_BS=table[:, :, 0],
        segments_BS=table[:, :, 1], positions_3BS=positions_3BS, targets_BS=table[:, :, 3],
        image_labels_BN5=torch.tensor([_image_labels(sample.scene, side) for sample in samples]),
        mentions_M2=torch.tensor(mentions).view(-1, 2), mention_labels_M4=torch.tensor(mention_labels).view(-1, 4),
        pairs_L2=_pairs(samples),
    )  # fmt: skip


def _pairs(samples: list[Sample]) -> torch.Tensor:
    counts = [len(question.mentions) for sample in samples for question in sample.questions]
    starts = np.cumsum([0, *counts]).tolist()
    return torch.tensor([[m, m + 1] for m, count in zip(starts, counts, strict=False) if count == 2]).view(
        -1, 2
    )


def _lay_out(
    sample: Sample, prefix: list[int], side: int, ids: dict[str, int]
) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """Rows of (token, segment, position, target), and (position, object) of each mention."""
    first = FIRST_IMAGE_POSITION
    prefix_positions = [0, 1, *[first] * side * side, first + side]
    row = [[token, 0, position, IGNORED] for token, position in zip(prefix, prefix_positions, strict=True)]
    spots = []
    for number, question in enumerate(sample.questions, 1):
        spots += [(len(row) + word, thing) for word, thing in question.mentions]
        tokens = [*(ids[word] for word in words_of(question.text)), ids[ASSISTANT], ids[question.answer]]
        targets = [*[IGNORED] * (len(tokens) - 2), ids[question.answer], ids["<|end|>"]]
        for i, (token, target) in enumerate(zip(tokens, targets, strict=True)):
            row.append([token, number, first + side + 1 + i, target])
    return row, spots


def _image_labels(scene: Scene, side: int) -> list[list[int]]:
    tokens_per_cell = side // GRID
    labels = []
    for y in range(side):
        for x in range(side):
            row, column = y // tokens_per_cell, x // tokens_per_cell
            here = scene.named(row=row, column=column)
            label = [0, IGNORED, IGNORED]
            if here:
                digit = IGNORED if here[0].digit is None else here[0].digit
                label = [1 + NOUNS.index(here[0].noun), COLOURS.index(here[0].colour), digit]
            labels.append([*label, row, column])
    return labels


@cache
def _id_of(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return vocabulary
