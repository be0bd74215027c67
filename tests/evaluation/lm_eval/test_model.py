"""EvenMoELM: without a limit lm-eval's own model to the bit; under one, padding counts for nothing."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.registry import get_model
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from evenmoe.errors import AttachError, ConfigError
from evenmoe.evaluation.lm_eval import EvenMoELM
from evenmoe.models.loading import load, load_tokenizer
from evenmoe.routing import TokenDrop
from tests.evaluation.lm_eval.toys import instance

PANGRAM = "the quick brown fox jumps over the lazy dog and runs away from it"
WORDS = PANGRAM.split()
PAIRS = [
    (" ".join(WORDS[: 1 + n % 11]), " " + " ".join(WORDS[n % 7 : n % 7 + 1 + n % 3])) for n in range(22)
] + [("the fox\nAnswer:", letter) for letter in "ABCD"]
LIKELIHOODS = [instance("loglikelihood", *pair) for pair in [*PAIRS, ("", "the lazy dog")]]
TEXTS = [
    instance("loglikelihood_rolling", " ".join(WORDS[:count] * times))
    for count, times in ((3, 1), (9, 80), (5, 4), (7, 50), (2, 2))
]
QUESTIONS = [
    instance("generate_until", " ".join(WORDS[: 2 + n]), {"until": ["o", "\n"], "max_gen_toks": 5 + n % 2})
    for n in range(7)
]


@pytest.fixture
def opened(tiny_checkpoint):
    """Make EvenMoELM objects on the tiny checkpoint."""

    def make(**options):
        return EvenMoELM(str(tiny_checkpoint), **({"devices": 2, "batch_size": 4} | options))

    return make


def scored(model, *rows):
    """Answers to rows of (context, continuation) in token ids."""
    return model._loglikelihood_tokens(
        [(None, list(context), list(continuation)) for context, continuation in rows]
    )


@pytest.mark.parametrize(
    "options", [{}, {"policy": "token_drop", "gamma": math.inf}], ids=["baseline", "inf"]
)
def test_without_a_limit_answers_are_those_of_lm_evals_own_model_to_the_bit(opened, tiny_checkpoint, options):
    theirs = HFLM(
        pretrained=load(tiny_checkpoint),
        tokenizer=load_tokenizer(tiny_checkpoint),
        batch_size=4,
        device="cpu",
    )
    ours = opened(**options)
    assert ours.loglikelihood(LIKELIHOODS) == theirs.loglikelihood(LIKELIHOODS)
    assert ours.loglikelihood_rolling(TEXTS) == theirs.loglikelihood_rolling(TEXTS)
    assert ours.generate_until(QUESTIONS) == theirs.generate_until(QUESTIONS)
    assert ours.loads.drop_rate == 0


def test_under_a_limit_answers_differ_and_loads_say_why(opened):
    base, capped = opened(), opened(policy="token_drop", gamma=0.5, min_tokens=1)
    assert capped.loglikelihood(LIKELIHOODS) != base.loglikelihood(LIKELIHOODS)
    assert capped.loads.drop_rate > 0.2
    assert capped.loads.total.before_LE.sum() == base.loads.total.before_LE.sum()


def test_exactly_the_real_tokens_are_counted_also_where_they_have_the_id_that_lm_eval_pads_with(opened):
    model = opened(policy="token_drop", gamma=1.0)
    scored(model, ([5, 0, 0], [0, 7]), ([0], [0, 0]), ([9, 8, 7, 6, 5, 4, 3, 2, 1], [0]), ([0], [1]))
    assert model.loads.total.tokens_L.tolist() == [4 + 2 + 9 + 1] * 2


def test_a_generation_counts_its_prompt_and_what_each_row_says_until_it_stops(opened, monkeypatch):
    model = opened(devices=1)
    said = {0: [40, 41, 42], 1: [43, 0, 45]}  # the second row ends its text after two tokens: id 0 is the end
    script = iter(zip(*said.values(), strict=True))

    def scripted(ids_BS, scores_BV):
        scores_BV = torch.full_like(scores_BV, -100.0)
        for row, token in enumerate(next(script)):
            scores_BV[row, token] = 0.0
        return scores_BV

    generate = model.model.generate
    monkeypatch.setattr(
        model.model, "generate", lambda **options: generate(**options, logits_processor=[scripted])
    )
    settings = {"until": ["\n"], "max_gen_toks": 3}
    contexts = ["the quick brown", "the"]
    model.generate_until([instance("generate_until", context, settings) for context in contexts])
    prompt = sum(len(model.tok_encode(context)) for context in contexts)
    fed = 2 + 1  # what is said last is fed to nobody: two of the first row, and "43" of the second
    assert model.loads.total.tokens_L.tolist() == [prompt + fed] * 2


ROW = st.tuples(
    st.lists(st.integers(0, 60), min_size=1, max_size=5), st.lists(st.integers(0, 60), min_size=1, max_size=2)
)


@settings(max_examples=10)
@given(rows=st.lists(ROW, min_size=1, max_size=4), long=st.integers(10, 30))
def test_a_longer_neighbour_changes_no_row_that_is_strictly_isolated(rows, long, strict_model):
    """The neighbour makes all rows padded: what runs is the sum of the parts, exactly, and scores but for rounding."""
    neighbour = ([1 + n % 50 for n in range(long)], [7])
    likelihoods, ran_LE = likelihoods_and_load(strict_model, *rows)
    its, its_LE = likelihoods_and_load(strict_model, neighbour)
    together, all_ran_LE = likelihoods_and_load(strict_model, *rows, neighbour)
    assert (all_ran_LE == ran_LE + its_LE).all()
    assert together == pytest.approx([*likelihoods, *its], abs=1e-4)


def likelihoods_and_load(model, *rows):
    model.runner.ledger.loads = None
    found = scored(model, *rows)
    return [likelihood for likelihood, _ in found], model.loads.total.after_LE


@pytest.fixture(scope="module")
def strict_model(tiny_checkpoint):
    with EvenMoELM(
        str(tiny_checkpoint),
        policy="token_drop",
        gamma=0.5,
        isolation="strict",
        min_tokens=1,
        devices=1,
        batch_size=8,
        logits_cache=False,
    ) as model:
        yield model


def test_rows_go_to_devices_in_contiguous_shares_of_the_batch(opened):
    """Rows longest first: with two devices, the two longest are on the first one."""
    model = opened(devices=2, batch_size=4)
    seen = []
    with model.attached.observed(lambda step: seen.append(step.tokens.device_T)):
        scored(model, ([3], [4]), ([5] * 4, [4]), ([6] * 7, [4]), ([7] * 9, [4]))
    device_BS = seen[0].view(4, 9)
    assert device_BS[:, 0].tolist() == [0, 0, 1, 1]


def test_lm_eval_knows_the_model_by_name_with_its_options_as_text(tiny_checkpoint):
    arguments = f"pretrained={tiny_checkpoint},policy=token_drop:keep=random,gamma=1.5,devices=4,scope=global"
    model = get_model("evenmoe").create_from_arg_string(
        arguments, {"batch_size": "3", "device": None, "max_batch_size": None}
    )
    described = model.attached.describe()
    assert type(model) is EvenMoELM
    assert {key: described[key] for key in ("gamma", "keep", "scope", "num_devices")} == {
        "gamma": 1.5,
        "keep": "random",
        "scope": "global",
        "num_devices": 4,
    }
    assert model.batch_size == 3


def test_a_script_of_the_users_own_evaluates_with_it(tiny_checkpoint, toy_tasks, no_network):
    found = simple_evaluate(
        model="evenmoe",
        model_args={
            "pretrained": str(tiny_checkpoint),
            "policy": "fill",
            "gamma": 1.0,
            "devices": 2,
            "dtype": "float32",
        },
        tasks=["toy_choices"],
        batch_size=4,
        task_manager=TaskManager(include_path=str(toy_tasks), include_defaults=False),
    )
    assert 0 <= found["results"]["toy_choices"]["acc,none"] <= 1
    assert found["config"]["evenmoe"]["gamma"] == 1.0


def test_a_loaded_model_is_given_back_as_it_was(tiny_checkpoint):
    model = load(tiny_checkpoint, dtype="float32")
    ids = torch.tensor([[5, 6, 7, 8] * 8])
    before = model(ids).logits
    with EvenMoELM(model, policy=TokenDrop(gamma=0.5), devices=1) as opened:
        assert opened.attached.policy == TokenDrop(gamma=0.5)
        with pytest.raises(AttachError):
            EvenMoELM(model)
    assert torch.equal(model(ids).logits, before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gama": 1.0}, ["gama", "gamma", "placement", "max_length"]),
        ({"parallelize": True}, ["parallelize", "no option"]),
        ({"batch_size": "auto"}, ["batch_size", "auto", "fixed"]),
        ({"batch_size": 0}, ["batch_size", "at least 1"]),
        ({"policy": "tokendrop"}, ["tokendrop", "token_drop"]),
        ({"policy": "token_drop:keep=best", "gamma": 1}, ["keep", "best", "random"]),
        ({"policy": "token_drop"}, ["gamma", "None"]),
        ({"policy": "token_drop", "gamma": "high"}, ["gamma", "high"]),
        ({"gamma": 1.5}, ["gamma", "baseline", "no capacity"]),
        ({"scope": "global"}, ["scope", "baseline"]),
        ({"policy": TokenDrop(gamma=1.0), "gamma": 2.0}, ["gamma", "whole"]),
        ({"phases": "all"}, ["phases", "all", "prefill"]),
        ({"devices": 9}, ["num_devices", "8 experts"]),
        ({"pad_token_id": -1}, ["pad_token_id", "-1"]),
        ({"quantization": "int8"}, ["quantization", "int8", "nf4"]),
    ],
)
def test_options_that_are_unknown_or_cannot_act_are_refused_by_name(opened, options, words):
    with pytest.raises(ConfigError) as error:
        opened(**options)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_options_of_loading_are_refused_beside_a_loaded_model(tiny_checkpoint):
    with pytest.raises(ConfigError, match="dtype"):
        EvenMoELM(load(tiny_checkpoint), dtype="float32", devices=1)


def test_a_cache_of_answers_is_refused(opened, tmp_path):
    with pytest.raises(ConfigError, match="use_cache"):
        simple_evaluate(model=opened(), tasks=["toy"], use_cache=str(tmp_path / "cache"))


def test_more_to_generate_than_fits_is_refused(opened):
    with pytest.raises(ConfigError, match="max_gen_toks"):
        opened().generate_until([instance("generate_until", "the", {"until": ["\n"], "max_gen_toks": 256})])


def test_rows_too_long_are_cut_on_the_left_and_counted(opened, caplog):
    model = opened(max_length=8)
    scored(model, (list(range(10, 30)), [1, 2]), ([3, 4], [5]))
    assert model.runner.formed[0]["num_cut_to_fit"] == 1
    assert model.loads.total.tokens_L.tolist() == [8 + 2] * 2
    assert "1 of 2 rows" in caplog.text
