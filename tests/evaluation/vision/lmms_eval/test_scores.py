"""lmms-eval's results as ours, on results written out by hand in its shape."""

import math

import pytest

from evenmoe.evaluation.vision.lmms_eval.scores import item_value, mean_score, scored_task, standard_error


def sample(doc_id, metric, value, response, **document):
    return {"doc_id": doc_id, "doc": document, metric: value, "filtered_resps": response}


def whole(metric, total, samples):
    return {"results": {"t": {f"{metric},none": total}}, "samples": {"t": samples}, "n-shot": {"t": 2}}


def test_a_mean_over_numbers():
    samples = [
        sample(0, "acc", 1.0, ["red"], category="colour"),
        sample(1, "acc", 0.0, ["dog"], category="shape"),
        sample(2, "acc", 1.0, ["two"], id="third"),
    ]
    found = scored_task("t", "acc", whole("acc", 2 / 3, samples), sum, "t")
    assert (found.score.score, found.score.num_items, found.score.num_fewshot) == (2 / 3, 3, 2)
    assert found.score.stderr == pytest.approx(math.sqrt(1 / 3) / math.sqrt(3))  # sample deviation of 1, 0, 1
    assert found.score.items_file == "items/t.jsonl"
    assert [(item.item, item.score, item.group, item.answer) for item in found.items] == [
        ("0", 1.0, "colour", "red"),
        ("1", 0.0, "shape", "dog"),
        ("third", 1.0, "", "two"),
    ]


def test_a_sum_over_pairs_has_items_but_no_standard_error():
    values = [{"question_id": "a", "category": "count", "score": score} for score in (1.0, 0.0)]
    samples = [sample(i, "mme_perception_score", value, ["yes"]) for i, value in enumerate(values)]
    found = scored_task("t", "mme_perception_score", whole("mme_perception_score", 50.0, samples), sum, "t")
    assert found.score.score == 50.0
    assert found.score.stderr is None
    assert [item.score for item in found.items] == [1.0, 0.0]


def test_only_documents_that_have_the_metric_count():
    samples = [sample(0, "x", 1.0, ["a"]), sample(1, "y", 0.0, ["b"])]
    assert scored_task("t", "x", whole("x", 1.0, samples), sum, "t").score.num_items == 1
    assert scored_task("t", "z", whole("z", 1.0, samples), sum, "t") is None


def test_a_value_without_a_number_is_scored_by_the_metric_over_it_alone(capsys):
    def accuracy(values):
        print("a table")
        return sum(value["pred"] == value["answer"] for value in values) / len(values)

    assert item_value({"pred": "A", "answer": "A"}, accuracy) == 1.0
    assert item_value({"pred": "B", "answer": "A"}, accuracy) == 0.0
    assert capsys.readouterr().out == ""


def test_the_chosen_of_several_is_that_of_the_least_loss():
    samples = [sample(0, "acc", 1.0, [(2.5, False), (0.5, True), (1.0, False)])]
    assert scored_task("t", "acc", whole("acc", 1.0, samples), sum, "t").items[0].answer == "1"


def test_no_standard_error_of_one_score_or_of_what_is_no_mean():
    assert standard_error([1.0], 1.0) is None
    assert standard_error([1.0, 0.0], 0.6) is None
    assert standard_error([0.0, 0.0, 0.0], 0.0) == 0.0


def test_no_mean_over_different_scales():
    def score(metric, value):
        return scored_task(
            "t", metric, whole(metric, value, [sample(0, metric, value, ["a"])]), sum, "t"
        ).score

    assert mean_score([score("acc", 0.25), score("seed_all", 0.75)]) == 0.5
    assert mean_score([score("acc", 0.25), score("gpt_eval_score", 75.0)]) is None
    assert mean_score([score("mme_perception_score", 1300.0), score("mme_cognition_score", 300.0)]) is None
