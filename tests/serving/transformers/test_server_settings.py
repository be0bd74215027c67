"""What a server is started with: addresses, sizes, keys, policies and schedulers, and what cannot be."""

import json
import socket

import pytest

from evenmoe.errors import ConfigError, FileFormatError, UnsupportedModelError
from evenmoe.models.tiny import tiny_model
from evenmoe.serving.transformers.server import ServerOptions, options_of, read_options
from tests.serving.transformers.server_runs import running


def test_clients_loads_reach_the_scheduler(text_model, text_tokenizer):
    scheduling = {"strategy": "greedy_variance", "predictor": "client"}
    with running(text_model, text_tokenizer, {"scheduling": scheduling}, api_key="secret") as server:
        assert server.post().status_code == 401
        with server.client() as http:
            http.headers["Authorization"] = "Bearer secret"
            answer = http.post(
                "/v1/completions", json=server.body(vllm_xargs={"expert_load": [1.0] * 128}, priority=3)
            )
            assert answer.status_code == 200
            assert http.get("/health").status_code == 200
        assert server.engine.session.scheduling().num_admitted == 1


def test_an_isolating_policy_takes_whole_prompts_and_answers_alike_in_company(text_model, text_tokenizer):
    routing = {"gamma": 0.5, "options": {"isolation": "strict"}}
    with running(text_model, text_tokenizer, {"routing": routing}, max_model_len=512) as server:
        assert server.post(prompt=[5] * 500, max_tokens=1).status_code == 200
        alone = server.text(prompt="The history of the town begins in", max_tokens=8)
        together = server.post(
            prompt=["The history of the town begins in", [7] * 90, "x = [", [9] * 80], max_tokens=8
        )
        assert together.json()["choices"][0]["text"] == alone


def test_sizes_that_would_break_isolation_are_refused_or_said(text_model, text_tokenizer):
    strict = {"routing": {"gamma": 0.5, "options": {"isolation": "strict"}}}
    with (
        pytest.raises(ConfigError, match=r"cache_tokens = 2048 .* at least 4096"),
        running(text_model, text_tokenizer, strict, cache_tokens=2048),
    ):
        pass
    with running(text_model, text_tokenizer, strict, max_num_batched_tokens=64) as server:
        refused = server.post(prompt=[5] * 65)
        assert refused.status_code == 400
        assert "at most 64" in refused.json()["error"]["message"]


def test_without_a_scheduler_asked_for_the_order_is_of_arrival(text_model, text_tokenizer):
    serving = {"scheduling": {"strategy": "lpt", "predictor": "client"}}
    with running(text_model, text_tokenizer, serving, schedules=False) as server:
        assert server.text()
        assert server.engine.session.scheduling().strategy == "fcfs"


def test_an_address_that_is_taken_and_settings_that_cannot_be(text_model, text_tokenizer):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            pytest.raises(ConfigError, match="host and port"),
            running(text_model, text_tokenizer, port=taken.getsockname()[1]),
        ):
            pass
    for field, value in (("max_model_len", 1025), ("cache_tokens", 100), ("cache_tokens", 10**9)):
        with pytest.raises(ConfigError, match=field), running(text_model, text_tokenizer, **{field: value}):
            pass


def test_who_loses_the_cache_to_others_ends_with_the_same_tokens(text_model, text_tokenizer):
    prompts = ["The history of the town begins in", "def main(", "Wenn die Datei nicht", "x = ["]
    fields = {"max_tokens": 30, "ignore_eos": True}
    with running(text_model, text_tokenizer, max_model_len=48, cache_tokens=64) as server:
        alone = [server.text(prompt=prompt, **fields) for prompt in prompts]
        choices = server.post(prompt=prompts, **fields).json()["choices"]
        assert [choice["text"] for choice in choices] == alone
        assert server.engine.session.scheduling().num_admitted > 8  # some more than once


@pytest.mark.parametrize(
    ("name", "reason"),
    [("deepseek_v2", "slice shape"), ("qwen3_next", "linear_attention")],
)
def test_a_model_that_transformers_cannot_batch_is_refused_before_it_is_served(text_tokenizer, name, reason):
    with (
        pytest.raises(UnsupportedModelError, match=f"cannot run {name} here: .*{reason}"),
        running(tiny_model(name), text_tokenizer),
    ):
        pass


def test_options_are_read_from_a_file(tmp_path):
    path = tmp_path / "options.json"
    path.write_text(json.dumps({"model": "m", "port": 0, "serving": {"routing": {"gamma": 2}}}))
    options = read_options(path, "key")
    assert (options.name, options.port, options.serving.routing.gamma, options.api_key) == (
        "m",
        0,
        2.0,
        "key",
    )
    assert read_options(path, "").api_key is None
    path.write_text("{")
    with pytest.raises(FileFormatError, match="not a JSON"):
        read_options(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dtype", "float64"), ("port", 70000), ("port", "80"), ("max_num_seqs", 0), ("max_waiting", 0), ("model", " "),
        ("shutdown_timeout_s", 0), ("seed", -1), ("api_key", "secret"), ("serving", {"rooting": {}}),
    ],
)  # fmt: skip
def test_options_that_cannot_be(field, value):
    with pytest.raises(ConfigError, match="rooting" if field == "serving" else f"^{field}"):
        options_of({"model": "m", field: value})


def test_options_without_a_model():
    with pytest.raises(FileFormatError, match="model"):
        options_of({"port": 1})
    assert ServerOptions(model="m").served_name is None
