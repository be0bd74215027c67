"""The server's answers over HTTP: the model's own tokens, whole and streamed, and refusals that say what is wrong."""

import json
import threading

import pytest
import torch
from transformers import GenerationConfig

from tests.serving.transformers.server_runs import running

TEXT = "The history of the town begins in"


@pytest.fixture(scope="module")
def server(text_model, text_tokenizer):
    metrics = {"least_requests": 2, "interval_s": 1e-6}
    with running(text_model, text_tokenizer, {"metrics": metrics}) as server:
        yield server


def generated(model, tokenizer, text, num_tokens):
    ids = tokenizer.encode(text)
    config = GenerationConfig(max_new_tokens=num_tokens, do_sample=False, eos_token_id=0, pad_token_id=1)
    return tokenizer.decode(model.generate(torch.tensor([ids]), generation_config=config)[0][len(ids) :])


def test_a_completion_is_what_generate_says(server, text_model, text_tokenizer):
    answer = server.post(prompt=TEXT, max_tokens=12).json()
    assert answer["object"] == "text_completion"
    assert answer["model"] == "text"
    [choice] = answer["choices"]
    assert choice["text"] == generated(text_model, text_tokenizer, TEXT, 12)
    assert choice["finish_reason"] == "length"
    num = len(text_tokenizer.encode(TEXT))
    assert answer["usage"] == {"prompt_tokens": num, "completion_tokens": 12, "total_tokens": num + 12}


def test_an_answer_bears_the_id_that_its_request_was_given(server):
    body = server.body()
    with server.client() as http:
        ids = [
            http.post("/v1/completions", json=body, headers=headers).json()["id"]
            for headers in ({"X-Request-Id": "mine-7"}, {"X-Request-Id": "y" * 500}, {}, {})
        ]
    assert ids[:2] == ["cmpl-mine-7", "cmpl-" + "y" * 128]
    assert ids[2] != ids[3]


def test_a_stream_is_the_same_in_pieces(server):
    whole = server.text(prompt=TEXT, max_tokens=12)
    *events, usage, done = server.stream(prompt=TEXT, max_tokens=12, stream_options={"include_usage": True})
    assert "".join(event["choices"][0]["text"] for event in events) == whole
    assert len(events) > 6
    assert [event["choices"][0]["finish_reason"] for event in events] == [None] * (len(events) - 1) + [
        "length"
    ]
    assert (usage["choices"], usage["usage"]["completion_tokens"], done) == ([], 12, "[DONE]")
    assert server.stream(prompt=TEXT)[-2]["choices"][0]["finish_reason"] == "length"


def test_prompts_as_ids_and_several_at_once(server, text_tokenizer):
    texts = [TEXT, "def main("]
    ids = [text_tokenizer.encode(text) for text in texts]
    alone = [server.text(prompt=text) for text in texts]
    assert server.text(prompt=ids[0]) == alone[0]
    for prompt in (texts, ids):
        choices = server.post(prompt=prompt).json()["choices"]
        assert [(choice["index"], choice["text"]) for choice in choices] == list(enumerate(alone))
    told = {0: "", 1: ""}
    for event in server.stream(prompt=texts)[:-1]:
        told[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert list(told.values()) == alone


def test_a_seed_makes_a_draw_again_whoever_else_is_there(server):
    drawn = {"prompt": TEXT, "max_tokens": 10, "temperature": 1.0, "seed": 5}
    alone = server.text(**drawn)
    texts = []
    threads = [
        threading.Thread(target=lambda seed=seed: texts.append(server.text(**drawn | {"seed": seed})))
        for seed in (5, 6, 7, 5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts.count(alone) == 2
    assert len(set(texts)) > 1
    assert server.text(**drawn | {"top_k": 1}) == server.text(**drawn | {"temperature": 0})
    assert server.text(**drawn | {"top_p": 1e-9}) == server.text(**drawn | {"temperature": 0})
    assert server.text(**drawn | {"seed": None}) != server.text(**drawn | {"seed": None})


def test_stop_strings_end_an_answer_and_are_not_in_it(server):
    whole = server.text(prompt=TEXT, max_tokens=20)
    stop = whole[10:14]
    for answer in (
        server.post(prompt=TEXT, max_tokens=20, stop=[stop, "never"]).json()["choices"][0],
        {
            "text": "".join(
                e["choices"][0]["text"] for e in server.stream(prompt=TEXT, max_tokens=20, stop=stop)[:-1]
            ),
            "finish_reason": "stop",
        },
    ):
        assert (answer["text"], answer["finish_reason"]) == (whole[: whole.index(stop)], "stop")
    server.wait_until(lambda: server.engine.num_open == 0)


def test_the_end_of_a_text_ends_the_answer_unless_ignored(server, text_tokenizer, monkeypatch):
    [second] = text_tokenizer.encode(server.text(prompt=TEXT, max_tokens=2), add_special_tokens=False)[1:]
    monkeypatch.setattr(server.engine, "_ends", frozenset([second]))
    monkeypatch.setattr(server.engine._manager.generation_config, "eos_token_id", [second])
    answer = server.post(prompt=TEXT, max_tokens=9).json()
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 2
    ignored = server.post(prompt=TEXT, max_tokens=9, ignore_eos=True).json()
    assert ignored["choices"][0]["finish_reason"] == "length"
    assert ignored["usage"]["completion_tokens"] == 9


def test_the_context_is_used_to_its_end_and_no_further(server):
    most = 1024
    answer = server.post(prompt=[5] * (most - 3), max_tokens=3).json()
    assert answer["usage"]["total_tokens"] == most
    assert server.post(prompt=[5] * (most - 3), max_tokens=None).json()["usage"]["completion_tokens"] == 3
    for fields in ({"prompt": [5] * (most - 3), "max_tokens": 4}, {"prompt": [5] * most, "max_tokens": None}):
        answer = server.post(**fields)
        assert answer.status_code == 400
        assert "context length is 1024" in answer.json()["error"]["message"]


REFUSALS = {
    "echo": {"echo": True},
    "best_of": {"best_of": 2},
    "logprobs": {"logprobs": 1},
    "suffix": {"suffix": "end"},
    "presence_penalty": {"presence_penalty": 0.5},
    "logit_bias": {"logit_bias": {"5": 1.0}},
    "top_p": {"top_p": 0},
    "top_k": {"top_k": -2},
    "priority": {"priority": 2**63},
    "temperature": {"temperature": 10**400},
    "stream": {"stream": "perhaps"},
    "prompt": {"prompt": "\ud800 half"},
    "model": {"model": ["text"]},
    "a field's name": {"\udfff": 1},
    "stop": {"stop": ["a", ""]},
    "temprature": {"temprature": 1},
    "stream_options": {"stream_options": {"include_usages": True}},
    "vllm_xargs.expert_load": {"vllm_xargs": {"expert_load": [1.0] * 127}},
    "vllm_xargs.expert_load[3]": {"vllm_xargs": {"expert_load": [1.0] * 3 + [-1] + [1.0] * 124}},
    "vllm_xargs.other": {"vllm_xargs": {"other": 1}},
    "vllm_xargs": {"vllm_xargs": [1.0]},
}


@pytest.mark.parametrize("field", REFUSALS)
def test_a_field_that_cannot_act_is_refused_by_its_name(server, field):
    answer = server.post(**REFUSALS[field])
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (400, "invalid_request_error", 400)
    assert error["message"].startswith(field)


def test_what_asks_for_nothing_is_taken(server):
    neutral = {
        "n": 1, "best_of": 1, "echo": False, "logprobs": None, "suffix": None, "presence_penalty": 0,
        "frequency_penalty": 0.0, "logit_bias": {}, "user": "me", "stream": None, "stop": None, "top_k": -1,
        "vllm_xargs": {"expert_load": [1.0] * 128},
    }  # fmt: skip
    assert server.text(**neutral) == server.text()


def test_other_paths_and_methods(server):
    with server.client() as http:
        assert http.get("/health").status_code == 200
        assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["text"]
        assert http.get("/v2").json()["error"]["code"] == 404
        assert http.get("/v1/completions").json()["error"]["code"] == 405
        assert http.post("/v1/completions", content=b" " * (17 << 20)).status_code == 413
    chat = server.post("/v1/chat/completions", messages=[{"role": "user", "content": "hi"}])
    assert chat.status_code == 400
    assert "prompt" in chat.json()["error"]["message"]


def test_metrics_are_sums_over_many_requests(server):
    before = server.engine.session.loads()
    for _ in range(3):
        server.text()
    after = server.engine.session.loads()
    assert after.num_requests - before.num_requests >= 2
    with server.client() as http:
        page = http.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    pairs = [line for line in page.text.splitlines() if line.startswith("evenmoe_expert_pairs_total{")]
    asked = sum(float(line.split()[-1]) for line in pairs if 'stage="asked"' in line)
    assert asked == after.loads.total.before_LE.sum()
    assert "request" not in " ".join(pairs)
    assert "evenmoe_scheduling" in page.text or "evenmoe_requests" in page.text


TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def test_chats_where_the_tokenizer_has_a_template(server, text_tokenizer, monkeypatch):
    monkeypatch.setattr(text_tokenizer, "chat_template", TEMPLATE)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is the file?"}]
    fields = {"model": "text", "messages": messages, "temperature": 0, "max_completion_tokens": 6}
    with server.client() as http:
        answer = http.post("/v1/chat/completions", json=fields).json()
        bad = http.post("/v1/chat/completions", json=fields | {"messages": []})
        with http.stream("POST", "/v1/chat/completions", json=fields | {"stream": True}) as stream:
            events = [json.loads(line[6:]) for line in stream.iter_lines() if line and "DONE" not in line]
    text = server.text(prompt="system: Be brief.\nuser: Where is the file?\nassistant:", max_tokens=6)
    message = answer["choices"][0]["message"]
    assert (answer["object"], message) == ("chat.completion", {"role": "assistant", "content": text})
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert all("role" not in event["choices"][0]["delta"] for event in events[1:])
    assert "".join(event["choices"][0]["delta"]["content"] for event in events) == text
    assert events[0]["object"] == "chat.completion.chunk"
    assert bad.status_code == 400
