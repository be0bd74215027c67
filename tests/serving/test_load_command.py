"""`evenmoe load` against a server in another thread."""

import asyncio
import json
import threading

import pytest
from typer.testing import CliRunner

from evenmoe.cli.main import app
from tests.serving.fake_server import DONE, OK, FakeServer, event, refusal


@pytest.fixture
def files(tmp_path):
    (tmp_path / "arrivals.csv").write_text(
        "arrived_s,prompt_tokens,output_tokens\n0,4,2\n0.1,4,2\n0.2,4,2\n", encoding="utf-8"
    )
    (tmp_path / "asks.txt").write_text("one\ntwo\nbad\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def server():
    async def script(body, write):
        if not body:
            listed = json.dumps({"data": [{"id": "the-model"}]}).encode()
            await write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(listed) + listed
            )
        elif body["prompt"] == "bad":
            await write(refusal(400, "no such thing"))
        else:
            await write(OK + event("a") + event("b"))
            await write(event(usage={"prompt_tokens": 4, "completion_tokens": 2}) + DONE)

    fake, ready, loop = FakeServer(script), threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve():
        async with fake.running() as fake.url:
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait(10)
    yield fake
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)


def run(*words):
    return CliRunner().invoke(app, ["load", *map(str, words)])


def test_a_run_tells_what_users_saw_and_writes_it(files, server):
    answer = run(
        server.url, "--arrivals", files / "arrivals.csv", "--prompts", files / "asks.txt", "--speedup", 2,
        "--json", files / "out" / "load.json", "--records", files / "out" / "records.jsonl",
    )  # fmt: skip
    assert answer.exit_code == 1  # one of the three was refused
    assert "2 of 3 requests finished" in answer.stdout
    assert "HTTP 400: no such thing" in answer.stdout
    body = json.loads((files / "out" / "load.json").read_text())
    assert body["config"]["model"] == "the-model"
    assert body["result"]["outcomes"] == {"finished": 2, "refused": 1}
    lines = (files / "out" / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["planned_s"] for line in lines] == [0.0, 0.05, 0.1]


def test_a_run_without_a_failure_exits_with_0(files, server):
    (files / "asks.txt").write_text("fine\n", encoding="utf-8")
    answer = run(server.url, "--arrivals", files / "arrivals.csv", "--prompts", files / "asks.txt")
    assert answer.exit_code == 0, answer.output
    assert "3 of 3 requests finished" in answer.stdout


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("127.0.0.1:1",), "url"),
        (("http://127.0.0.1:9",), "lists its models"),
        (("http://127.0.0.1:9", "--timeout", "0"), "timeout_s"),
        (("http://127.0.0.1:9", "--speedup", "0"), "speedup"),
    ],
)
def test_wrong_words_are_named(files, words, named):
    answer = run(*words, "--arrivals", files / "arrivals.csv", "--prompts", files / "asks.txt")
    assert answer.exit_code != 0
    assert named in str(answer.exception)
