"""The stacked bars are the counts: image over text, over the even load, in the first panel's order."""

import numpy as np
import pytest

from evenmoe.errors import ConfigError
from evenmoe.loads import ExpertLoads, LoadCounts
from evenmoe.reporting.modality_plots import modality_load_profile


def counts(before, after):
    ones = np.ones(1)
    return LoadCounts(
        before_LE=np.array([before]),
        after_LE=np.array([after]),
        tokens_L=np.array([sum(before)]),
        kept_L=np.array([sum(after)]),
        gate_mass_before_L=ones,
        gate_mass_kept_L=ones,
        tokens_without_expert_L=np.array([0]),
    )


def loads(image_before, text_before, image_after, text_after):
    total = counts(np.add(image_before, text_before).tolist(), np.add(image_after, text_after).tolist())
    tags = {"image": counts(image_before, image_after), "text": counts(text_before, text_after)}
    return ExpertLoads(layers=("layer 0",), num_experts_L=np.array([4]), top_k=1, total=total, by_tag=tags)


def heights(axis):
    """Heights of the text bars and of the image bars of one panel."""
    return [[bar.get_height() for bar in container] for container in axis.containers]


def test_the_bars_are_the_counts_over_the_even_load():
    # 16 assignments to 4 experts: the even load is 4
    image_first = loads([6, 0, 2, 0], [1, 5, 1, 1], [3, 0, 2, 0], [1, 4, 1, 1])
    figure = modality_load_profile({"image first": image_first}, 0)
    asked, ran = figure.axes
    assert heights(asked) == [
        [1 / 4, 5 / 4, 1 / 4, 1 / 4],
        [6 / 4, 0, 2 / 4, 0],
    ]  # experts 0, 1, 2, 3: 7, 5, 3, 1
    assert heights(ran) == [[1 / 4, 4 / 4, 1 / 4, 1 / 4], [3 / 4, 0, 2 / 4, 0]]
    assert [bar.get_y() for bar in ran.containers[1]] == heights(ran)[0]
    assert ran.get_title(loc="left") == "image first"


def test_every_panel_has_the_experts_in_the_same_order():
    one = loads([0, 0, 0, 8], [1, 2, 3, 0], [0, 0, 0, 4], [1, 2, 3, 0])
    other = loads([8, 0, 0, 0], [1, 2, 3, 0], [4, 0, 0, 0], [1, 2, 3, 0])
    figure = modality_load_profile({"one": one, "other": other}, 0)
    even = 14 / 4
    assert heights(figure.axes[0])[1] == [8 / even, 0, 0, 0]
    assert heights(figure.axes[2])[1] == [0, 0, 0, 4 / even]  # its expert 0 stands last


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ConfigError, match="panels"):
        modality_load_profile({}, 0)
    with pytest.raises(ConfigError, match="layer"):
        modality_load_profile({"one": loads([1] * 4, [1] * 4, [1] * 4, [1] * 4)}, 3)
