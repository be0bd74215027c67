"""Answers come from fixed batches, padding changes nothing, and the same run gives the same bytes."""

import logging

import pytest
import torch

import evenmoe
from evenmoe.errors import ConfigError, UnsupportedModelError
from evenmoe.evaluation.scoring import EvalConfig
from evenmoe.evaluation.specs import PolicySpec
from evenmoe.evaluation.vision.answering import Answerer, Prompt, open_answerer
from evenmoe.models.loading import load
from evenmoe.models.processing import load_processor
from evenmoe.routing import Baseline, TokenDrop
from tests.evaluation.vision.tiny_vlm import save_tiny_vlm, some_prompts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_vlm(tmp_path_factory.mktemp("tiny_vlm"))


@pytest.fixture(scope="module")
def model(folder):
    return load(folder, dtype="float32")


@pytest.fixture(scope="module")
def processor(folder):
    return load_processor(folder)


def config(folder, **settings):
    settings = {"policy": PolicySpec(name="token_drop"), "gamma": 0.5, "min_tokens": 1} | settings
    return EvalConfig(model=str(folder), tasks=("scenes",), batch_size=4, num_devices=2, **settings)


def counts(loads):
    return {name: array.tolist() for name, array in loads.total.arrays().items() if "mass" not in name}


def test_answers_are_those_of_plain_greedy_decoding_alone(model, processor):
    prompts = some_prompts(5)
    answers = Answerer(model, processor, batch_size=3).answer(prompts)
    for prompt, answer in zip(prompts, answers, strict=True):
        parts = [{"type": "image"} for _ in prompt.images] + [{"type": "text", "text": prompt.text}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=False
        )
        inputs = processor(text=[text], images=list(prompt.images) or None, return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        for _ in range(prompt.max_new_tokens):  # the slow way: no cache, no batch, no generate
            logits = model(**inputs).logits
            best = logits[:, -1].argmax(-1, keepdim=True)
            if best.item() == processor.tokenizer.eos_token_id:
                break
            inputs["input_ids"] = torch.cat([inputs["input_ids"], best], dim=1)
            for name in ("attention_mask", "mm_token_type_ids"):
                fill = 1 if name == "attention_mask" else 0
                inputs[name] = torch.nn.functional.pad(inputs[name], (0, 1), value=fill)
        expected = processor.tokenizer.decode(inputs["input_ids"][0, length:], skip_special_tokens=True)
        assert answer == expected.strip()


def test_no_answer_is_longer_than_its_own_limit(model, processor):
    prompts = some_prompts(6)
    for prompt, answer in zip(prompts, Answerer(model, processor, batch_size=6).answer(prompts), strict=True):
        assert len(answer.split()) <= prompt.max_new_tokens


@pytest.mark.parametrize("way", ["answer", "loglikelihoods"])
def test_neighbours_and_padding_change_nothing_under_strict_isolation(model, processor, way):
    prompts = some_prompts(6)
    found = []
    for batch_size in (1, 4, 6):
        policy = TokenDrop(gamma=0.5, isolation="strict")
        with evenmoe.attach(model, policy, min_tokens=1, pad_token_id=0) as attached:
            answerer = Answerer(model, processor, batch_size=batch_size, attached=attached)
            if way == "answer":
                result = answerer.answer(prompts)
            else:
                pairs = [(prompt, f" w{index + 4} w8") for index, prompt in enumerate(prompts)]
                result = [round(one.logprob, 4) for one in answerer.loglikelihoods(pairs)]
            found.append((result, counts(answerer.loads)))
    assert found[0] == found[1] == found[2]
    assert attached.loads.drop_rate > 0.1


def test_batches_matter_without_isolation(model, processor):
    prompts = some_prompts(6)
    drops = []
    for batch_size in (1, 6):
        with evenmoe.attach(model, TokenDrop(gamma=0.5), min_tokens=1, pad_token_id=0) as attached:
            Answerer(model, processor, batch_size=batch_size, attached=attached).answer(prompts)
            drops.append(counts(attached.loads)["after_LE"])
    assert drops[0] != drops[1]


def test_the_likelihood_of_the_greedy_answer_says_greedy_and_beats_the_others(model, processor):
    answerer = Answerer(model, processor, batch_size=2)
    prompts = [Prompt(text=p.text, images=p.images, max_new_tokens=2) for p in some_prompts(4)]
    answers = answerer.answer(prompts)
    kept = [(p, f" {a}") for p, a in zip(prompts, answers, strict=True) if len(a.split()) == 2]
    assert kept
    for one in answerer.loglikelihoods(kept):
        assert one.is_greedy
        assert one.logprob < 0
    first_words = [(p, f" {a.split()[0]}") for p, a in kept]
    others = [(p, " w11") for p, _ in kept]
    for best, other in zip(
        answerer.loglikelihoods(first_words), answerer.loglikelihoods(others), strict=True
    ):
        assert best.logprob >= other.logprob


def test_all_next_tokens_together_are_certain(model, processor):
    prompt = some_prompts(1)[0]
    words = [word for word, _ in sorted(processor.tokenizer.get_vocab().items(), key=lambda pair: pair[1])]
    plain = [word for word in words if word.startswith("w")]
    found = Answerer(model, processor, batch_size=64).loglikelihoods([(prompt, f" {word}") for word in plain])
    total = sum(torch.tensor([one.logprob for one in found]).exp()).item()
    assert 0.5 < total <= 1.0 + 1e-5  # the special tokens have the rest
    assert sum(one.is_greedy for one in found) <= 1


def test_choosing_takes_the_likeliest_and_the_first_of_equals(model, processor):
    answerer = Answerer(model, processor, batch_size=4)
    prompts = some_prompts(3)
    options = [(" w7", " w8", " w9"), (" w20", " w20"), (" w30",)]
    found = answerer.choose(prompts, options)
    pairs = [(prompts[0], option) for option in options[0]]
    scores = [one.logprob for one in answerer.loglikelihoods(pairs)]
    assert found[0] == scores.index(max(scores))
    assert found[1:] == [0, 0]
    with pytest.raises(ConfigError, match="options"):
        answerer.choose(prompts[:1], [()])


def test_progress_counts_rows_and_a_short_last_batch_is_told(model, processor, caplog):
    seen = []
    with caplog.at_level(logging.INFO, logger="evenmoe"):
        Answerer(model, processor, batch_size=4).answer(some_prompts(6), lambda *now: seen.append(now))
    assert seen == [(4, 6), (6, 6)]
    assert "the last has 2" in caplog.text


@pytest.mark.parametrize("keep", ["score", "random"])
def test_two_runs_agree_to_the_byte(folder, keep):
    runs = []
    for _ in range(2):
        with open_answerer(
            config(folder, policy=PolicySpec(name="token_drop", options={"keep": keep}))
        ) as answerer:
            runs.append((answerer.answer(some_prompts(7)), counts(answerer.loads)))
    assert runs[0] == runs[1]


def test_opening_attaches_the_configured_policy_and_detaches_it(folder):
    with open_answerer(config(folder, gamma=1.5, isolation="request")) as answerer:
        told = answerer.attached.describe()
        assert told["gamma"] == 1.5
        assert told["isolation"] == "request"
        assert told["num_devices"] == 2
        attached = answerer.attached
    assert not attached.attached


def test_no_limit_gives_what_the_model_gives(model, processor):
    prompts = some_prompts(4)
    plain = Answerer(model, processor, batch_size=4).answer(prompts)
    for policy in (Baseline(), TokenDrop(gamma=float("inf"))):
        with evenmoe.attach(model, policy, num_devices=2, pad_token_id=0) as attached:
            assert Answerer(model, processor, batch_size=4, attached=attached).answer(prompts) == plain


def test_without_a_chat_template_images_come_first(folder, processor, tmp_path):
    bare = load_processor(save_tiny_vlm(tmp_path, template=None))
    prompt = Prompt(text="w5 w6", images=some_prompts(1)[0].images, max_new_tokens=2)
    from evenmoe.evaluation.vision.encoding import Encoder

    assert Encoder(bare).render(prompt) == "<|image_pad|>w5 w6"
    assert Encoder(bare).encode([prompt], side="left")["input_ids"].shape[1] == 16 + 2


def test_what_cannot_be_answered_is_refused(model, processor):
    with pytest.raises(ConfigError, match="batch_size"):
        Answerer(model, processor, batch_size=0)
    with pytest.raises(ConfigError, match="max_new_tokens"):
        Prompt(text="", images=(), max_new_tokens=0)
    with pytest.raises(UnsupportedModelError, match="no tokenizer"):
        Answerer(model, processor.image_processor)
    with pytest.raises(ConfigError, match="continuation"):
        Answerer(model, processor).loglikelihoods([(some_prompts(1)[0], "")])
