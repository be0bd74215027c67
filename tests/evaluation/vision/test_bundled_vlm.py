"""The bundled vision-language model on a part of the set: what it knows, and which tokens it can spare."""

import pytest

from evenmoe.evaluation.scoring import EvalConfig
from evenmoe.evaluation.scoring.evaluations import read_evaluation
from evenmoe.evaluation.scoring.paired import paired_difference
from evenmoe.evaluation.specs import parse_policy
from evenmoe.evaluation.vision.run import run_scenes
from evenmoe.evaluation.vision.suites import scene_tasks
from evenmoe.loads import read_loads
from evenmoe.models.bundled import bundled_names

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("vlm" not in bundled_names(), reason="no bundled vision-language model is here"),
]

PER_FAMILY = 50


@pytest.fixture(scope="module")
def loaded():
    from evenmoe.models.bundled import bundled_processor, load_bundled

    return load_bundled("vlm"), bundled_processor("vlm")


@pytest.fixture(scope="module")
def evaluate(loaded, tmp_path_factory):
    """Evaluate a policy, once each: gives the result, every item's score and the loads."""
    found = {}

    def run(policy, gamma=None):
        key = (policy, gamma)
        if key not in found:
            config = EvalConfig(
                model="bundled:vlm",
                tasks=tuple(scene_tasks()),
                policy=parse_policy(policy),
                gamma=gamma,
                batch_size=64,
                limit=PER_FAMILY,
                phases="prefill",
            )
            out = tmp_path_factory.mktemp("vlm")
            run_scenes(config, out, loaded=loaded)
            evaluation = read_evaluation(out)
            scores = [score for task in scene_tasks() for score in evaluation.scores(task)]
            found[key] = (evaluation.result, scores, read_loads(out / evaluation.result.loads_file))
        return found[key]

    return run


def test_it_knows_every_family(evaluate):
    result, scores, _ = evaluate("baseline")
    assert len(scores) == 6 * PER_FAMILY
    assert result.mean >= 0.88
    for task in result.tasks:
        assert task.score - 3 * task.stderr > 0.5, (
            task.task
        )  # the likeliest answer of any family is right less often


def test_most_tokens_are_image_tokens(evaluate):
    _, _, loads = evaluate("baseline")
    assert loads.by_tag["image"].tokens_L[0] > 0.6 * loads.total.tokens_L[0]


def test_each_modality_policy_spares_what_it_says(evaluate):
    shares = {}
    for modality in ("image-first", "uniform", "text-first"):
        _, _, loads = evaluate(f"token_drop:modality={modality}", 1.0)
        shares[modality] = {
            tag: 1 - counts.kept_L.sum() / counts.before_LE.sum() for tag, counts in loads.by_tag.items()
        }
        assert loads.straggler_factor < 1.1
    assert shares["image-first"]["text"] < shares["uniform"]["text"] < shares["text-first"]["text"]
    assert shares["image-first"]["image"] > shares["uniform"]["image"] > shares["text-first"]["image"]


def test_dropping_images_first_costs_less_than_dropping_text_first(evaluate):
    _, image_first, _ = evaluate("token_drop:modality=image-first", 1.0)
    _, text_first, _ = evaluate("token_drop:modality=text-first", 1.0)
    difference = paired_difference(image_first, text_first).difference
    assert difference.value > 2 * difference.stderr


def test_where_the_score_does_not_decide_image_first_is_best(evaluate):
    _, images, _ = evaluate("token_drop:keep=random,modality=image-first", 1.0)
    _, uniform, _ = evaluate("token_drop:keep=random", 1.0)
    difference = paired_difference(images, uniform).difference
    assert difference.value > 2 * difference.stderr


def test_random_drops_cost_more_than_the_lowest_scores(evaluate):
    _, by_score, _ = evaluate("token_drop:modality=uniform", 1.0)
    _, random, _ = evaluate("token_drop:keep=random", 1.0)
    difference = paired_difference(by_score, random).difference
    assert difference.value > 2 * difference.stderr
