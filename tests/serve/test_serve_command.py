"""`evenmoe serve` with vLLM for real: out of the box, stopped under load, killed, interrupted while it loads."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

import pytest

pytest.importorskip("vllm")

from evenmoe.serving.launch.children.sitecustomize import HIDDEN
from tests.serve.serving_process import ENVIRONMENT, ServingProcess, serving

pytestmark = pytest.mark.serve

PROMPTS = ("The president of the", "def main(argv):\n", "Im Anfang war", "SELECT name FROM")


@dataclass
class Answer:
    """What one request came to."""

    stream: bool
    max_tokens: int
    status: int = 0
    begun: bool = False
    finish_reasons: list[str] = field(default_factory=list)
    num_tokens: int = 0
    error: str = ""

    @property
    def whole(self) -> bool:
        """Whether all tokens that were asked for came, and the end was told."""
        return (
            self.status == 200
            and not self.error
            and self.finish_reasons == ["length"]
            and self.num_tokens == self.max_tokens
        )


def ask(server: ServingProcess, answer: Answer, prompt: str) -> None:
    """Send one completion request and note what comes, whatever it is."""
    body = {
        "model": "bundled:text",
        "prompt": prompt,
        "max_tokens": answer.max_tokens,
        "ignore_eos": True,
        "stream": answer.stream,
    }
    if answer.stream:
        body["stream_options"] = {"include_usage": True}
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=120)
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer.status = response.status
        events = stream_of(response) if answer.stream and response.status == 200 else [response.read()]
        for event in events:
            answer.begun = True
            take(answer, json.loads(event))
    except (OSError, http.client.HTTPException) as error:
        answer.error = repr(error)
    finally:
        connection.close()


def stream_of(response: http.client.HTTPResponse):
    """The events of a stream; one that ends without [DONE] is an error."""
    for line in response:
        if line.startswith(b"data: "):
            if line.strip() == b"data: [DONE]":
                return
            yield line.removeprefix(b"data: ")
    raise http.client.HTTPException("the stream broke off")


def take(answer: Answer, message: dict) -> None:
    if "error" in message:
        answer.error = message["error"]["message"]
    for choice in message.get("choices", ()):
        if choice["finish_reason"]:
            answer.finish_reasons.append(choice["finish_reason"])
    if message.get("usage"):
        answer.num_tokens = message["usage"]["completion_tokens"]


def running_and_waiting(server: ServingProcess) -> tuple[int, int]:
    """Requests in the engine, from vLLM's own metrics."""
    _, text = server.request("/metrics")
    found = {}
    for line in text.splitlines():
        for name in ("vllm:num_requests_running", "vllm:num_requests_waiting{"):
            if line.startswith(name):
                found[name] = found.get(name, 0) + int(float(line.rsplit(" ", 1)[1]))
    return found["vllm:num_requests_running"], found["vllm:num_requests_waiting{"]


def half_a_request(server: ServingProcess) -> socket.socket:
    """A connection whose request's body never ends."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    connection.sendall(head.encode() + b'{"model"')
    time.sleep(0.5)
    return connection


@pytest.fixture(scope="module")
def stopped_under_load():
    """A server with little room, stopped while requests run and others wait: the log, the status, the answers."""
    with serving(
        "--policy", "token_drop:isolation=request", "--gamma", "1.5", "--max-num-seqs", "4"
    ) as server:
        text = server.complete("The president of the")
        answers = [Answer(stream=number % 2 == 0, max_tokens=40 + 10 * (number % 5)) for number in range(24)]
        threads = [
            threading.Thread(target=ask, args=(server, answer, PROMPTS[number % 4] * 4))
            for number, answer in enumerate(answers)
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while not (running_and_waiting(server)[1] and any(answer.begun for answer in answers)):
            assert time.monotonic() < deadline, "requests never queued"
        queued = running_and_waiting(server)
        half = half_a_request(server)
        server.process.send_signal(signal.SIGTERM)
        late = []
        while server.status is None and len(late) < 200 and 503 not in {answer.status for answer in late}:
            late.append(Answer(stream=False, max_tokens=1))
            ask(server, late[-1], "late")
        status = server.wait(120)
        for thread in threads:
            thread.join(10)
        yield {
            "text": text,
            "answers": answers,
            "late": late,
            "half": half.recv(4096),
            "queued": queued,
            "status": status,
            "log": server.log,
            "left": server.processes(),
        }


def test_the_bundled_model_answers_as_transformers_does(stopped_under_load):
    from evenmoe.models.bundled import bundled_tokenizer, load_bundled

    model, tokenizer = load_bundled(dtype="bfloat16"), bundled_tokenizer()
    ids = tokenizer("The president of the", return_tensors="pt").input_ids
    tokens = model.generate(ids, max_new_tokens=16, do_sample=False)[0, ids.shape[1] :]
    assert stopped_under_load["text"] == tokenizer.decode(tokens)


def test_no_accepted_request_is_lost_at_a_stop(stopped_under_load):
    found = stopped_under_load
    assert min(found["queued"]) > 0, "nothing waited: the test would show nothing"
    assert all(answer.whole for answer in found["answers"]), found["answers"]
    assert found["status"] == 0, found["log"]


def test_requests_after_a_stop_are_refused_with_503(stopped_under_load):
    last = stopped_under_load["late"][-1]
    assert last.status == 503
    assert "shutting down" in last.error


def test_a_client_that_never_ends_its_request_is_refused_and_holds_nothing_up(stopped_under_load):
    assert stopped_under_load["half"].startswith(b"HTTP/1.1 503 ")


def test_nothing_is_left_after_a_stop(stopped_under_load):
    assert stopped_under_load["left"] == {}
    assert stopped_under_load["log"].splitlines()[-1] == "evenmoe: Stopped."


def test_other_commands_work_where_companions_of_torch_do_not(tmp_path):
    """In the environment as pip leaves it, none of what these tests set up about it."""
    environment = {key: value for key, value in ENVIRONMENT.items() if key not in ("PYTHONPATH", HIDDEN)}
    few = ["--windows", "4", "--window-tokens", "32", "--batch-size", "4", "--out", str(tmp_path)]
    program = [sys.executable, "-c", "from evenmoe.cli.main import run; run()"]
    found = subprocess.run(
        [*program, "profile", "bundled:text", *few],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "loads.json").is_file()


def test_nothing_outlives_a_killed_evenmoe_serve():
    with serving() as server:
        assert len(server.processes()) >= 4  # the guard, the API server, the engine core, the worker
        server.process.kill()
        deadline = time.monotonic() + 10
        while server.processes() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert server.processes() == {}


def test_an_interrupt_while_loading_leaves_nothing():
    with serving(ready=False) as server:
        deadline = time.monotonic() + 60
        while not any("vllm" in name for name in server.processes().values()):
            assert time.monotonic() < deadline, server.log
            time.sleep(0.1)
        time.sleep(3)  # it imports
        assert server.stop(signal.SIGINT) == 130
        assert server.processes() == {}
        assert "Stopped while loading." in server.log
