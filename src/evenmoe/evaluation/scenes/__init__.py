"""Drawn scenes and questions about them: a small visual question answering set, made from a seed with numpy alone."""

from evenmoe.evaluation.scenes.digits import Digits, heldout_digits
from evenmoe.evaluation.scenes.items import Item, heldout_items, items_checksum
from evenmoe.evaluation.scenes.kinds import FAMILIES, KINDS, Family, Kind, kinds_of
from evenmoe.evaluation.scenes.questions import Question, ask_all, ask_family
from evenmoe.evaluation.scenes.render import IMAGE_SIZE, render
from evenmoe.evaluation.scenes.scene import COLOURS, GRID, NOUNS, SHAPES, Scene, SceneObject, draw_scene

__all__ = [
    "COLOURS",
    "FAMILIES",
    "GRID",
    "IMAGE_SIZE",
    "KINDS",
    "NOUNS",
    "SHAPES",
    "Digits",
    "Family",
    "Item",
    "Kind",
    "Question",
    "Scene",
    "SceneObject",
    "ask_all",
    "ask_family",
    "draw_scene",
    "heldout_digits",
    "heldout_items",
    "items_checksum",
    "kinds_of",
    "render",
]
