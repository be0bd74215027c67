"""`evenmoe load` against a server in another thread."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from evenmoe.cli.main import app
from evenmoe.loads import ExpertLoads, LoadCounts, StepPeaks
from evenmoe.serving.config import ServingConfig
from evenmoe.serving.observation.collector import metrics_page
from evenmoe.serving.observation.loads_snapshot import LoadsSnapshot
from tests.serving.fake_server import DONE, OK, FakeServer, event, refusal


@pytest.fixture
def files(tmp_path):
    (tmp_path / "arrivals.csv").write_text(
        "arrived_s,prompt_tokens,output_tokens\n0,4,2\n0.1,4,2\n0.2,4,2\n", encoding="utf-8"
    )
    (tmp_path / "asks.txt").write_text("one\ntwo\nbad\n", encoding="utf-8")
    return tmp_path


def whole(content):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(content) + content


class Told:
    """A server's snapshots: one layer, two experts on two devices, four pairs a step of which three are kept."""

    engine = "vllm"

    def __init__(self, steps, busiest):
        self.steps, self.busiest = steps, np.array([float(busiest)])

    def config(self):
        return ServingConfig()

    def scheduling(self):
        return None

    def loads(self):
        pairs_LE = np.array([[2, 2]]) * self.steps
        counts = replace(LoadCounts.undropped(pairs_LE, top_k=1), kept_L=np.array([3]) * self.steps)
        peaks = StepPeaks(
            num_devices=2, steps_L=np.array([self.steps]), expert_before_L=self.busiest,
            expert_after_L=self.busiest, device_before_L=self.busiest, device_after_L=self.busiest,
        )  # fmt: skip
        loads = ExpertLoads(layers=("0",), num_experts_L=np.array([2]), top_k=1, total=counts, peaks=peaks)
        return LoadsSnapshot(
            loads=loads, before_LD=pairs_LE.astype(float), after_LD=pairs_LE.astype(float),
            num_steps=self.steps, num_tokens=4 * self.steps, num_requests=self.steps,
        )  # fmt: skip


@pytest.fixture
def server():
    async def script(body, write):
        if fake.paths[-1] == "/v1/models":
            await write(whole(json.dumps({"data": [{"id": "the-model"}]}).encode()))
        elif fake.paths[-1] == "/metrics":
            await write(whole(fake.pages.pop(0)) if fake.pages else refusal(404, "no metrics"))
        elif body["prompt"] == "slow":
            await asyncio.sleep(30)
        elif body["prompt"] == "bad":
            await write(refusal(400, "no such thing"))
        else:
            await write(OK + event("a") + event("b"))
            await write(event(usage={"prompt_tokens": 4, "completion_tokens": 2}) + DONE)

    fake, ready, loop = FakeServer(script), threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()
    fake.pages = []

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
    assert "0 lost, 0 answered twice" in answer.stdout
    assert "HTTP 400: no such thing" in answer.stdout
    body = json.loads((files / "out" / "load.json").read_text())
    assert body["config"]["model"] == "the-model"
    assert body["result"]["outcomes"] == {"finished": 2, "refused": 1}
    assert body["server"] is None  # it shows no metrics
    assert body["prompts_repeated"] == 0
    lines = (files / "out" / "records.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["planned_s"] for line in lines) == [0.0, 0.05, 0.1]


def test_a_run_without_a_failure_exits_with_0(files, server):
    (files / "asks.txt").write_text("fine\n", encoding="utf-8")
    answer = run(server.url, "--arrivals", files / "arrivals.csv", "--prompts", files / "asks.txt")
    assert answer.exit_code == 0, answer.output
    assert "3 of 3 requests finished" in answer.stdout
    assert "2 of the prompts came again" in answer.output


def test_traffic_without_any_file_and_a_warm_up_that_is_not_counted(files, server):
    answer = run(
        server.url, "--rate", 400, "--burst", 3, "--intensity", 2, "--requests", 12, "--warm-up", 4, "--max-tokens", 5,
        "--extra-body", '{"priority": 2}', "--json", files / "load.json",
    )  # fmt: skip
    assert answer.exit_code == 0, answer.output
    asked = [body for body in server.bodies if "prompt" in body]
    assert len({body["prompt"] for body in asked}) == len(asked) == 16
    assert all((body["max_tokens"], body["priority"]) == (5, 2) for body in asked)
    body = json.loads((files / "load.json").read_text())
    assert body["result"]["requests"] == 12
    assert (body["config"]["rate"], body["config"]["warm_up"], body["config"]["seed"]) == (400, 4, 0)


def test_two_runs_side_by_side(files, server):
    for name in ("one", "two"):
        run(server.url, "--rate", "inf", "--requests", 5, "--label", name, "--json", files / f"{name}.json")
    answer = run(
        "compare", files / "one.json", files / "two.json", "--markdown", "--json", files / "both.json"
    )
    assert answer.exit_code == 0, answer.output
    assert "| mean ± standard error (gain) | one | two |" in answer.stdout
    assert "latency P99, s" in answer.stdout
    assert json.loads((files / "both.json").read_text())["labels"] == ["one", "two"]
    answer = run("compare", files / "one.json", files / "two.json")
    assert "finished per second" in answer.stdout


def test_the_counters_of_the_server_are_of_the_run_alone(files, server):
    server.pages = [metrics_page(Told(steps=3, busiest=9)), metrics_page(Told(steps=8, busiest=24))]
    answer = run(server.url, "--rate", "inf", "--requests", 5, "--json", files / "load.json")
    loads = json.loads((files / "load.json").read_text())["server"]["loads"]
    assert loads["num_steps"] == 5
    assert loads["straggler_factor"] == pytest.approx(15 / 10)
    assert "straggler factor 1.500 (1.500 asked for), 25.0% dropped" in answer.stdout


def test_an_interrupted_run_keeps_what_it_knows(files, server):
    words = [
        "load", server.url, "--arrivals", files / "arrivals.csv", "--prompts", files / "slow.txt", "--speedup", 0.1,
        "--json", files / "load.json", "--records", files / "records.jsonl",
    ]  # fmt: skip
    (files / "slow.txt").write_text("slow\n", encoding="utf-8")
    unignored = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # as it is in the background
    command = [
        sys.executable,
        "-c",
        f"{unignored}; from evenmoe.cli.main import run; run()",
        *map(str, words),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not any(body.get("prompt") == "slow" for body in server.bodies):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _out, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Interrupted" in said
    body = json.loads((files / "load.json").read_text())
    assert body["interrupted"]
    assert body["result"]["outcomes"] == {"interrupted": 1}  # of three, the others were not due yet
    assert body["result"]["lost"] == 0
    assert len((files / "records.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("127.0.0.1:1", "--rate", 1), "url"),
        (("http://127.0.0.1:9", "--rate", 1), "lists its models"),
        (("http://127.0.0.1:9", "--rate", 1, "--timeout", "0"), "timeout_s"),
        (("http://127.0.0.1:9", "--rate", 0), "rate"),
        (("http://127.0.0.1:9",), "arrivals"),
        (("http://127.0.0.1:9", "--rate", 1, "--arrivals", "ARRIVALS"), "arrivals"),
        (("http://127.0.0.1:9", "--rate", 1, "--speedup", 2), "speedup"),
        (("http://127.0.0.1:9", "--rate", 1, "--keep-ties"), "keep-ties"),
        (("http://127.0.0.1:9", "--rate", 1, "--intensity", 2), "intensity"),
        (("http://127.0.0.1:9", "--arrivals", "ARRIVALS", "--intensity", 2, "--burst", 2), "intensity"),
        (("http://127.0.0.1:9", "--arrivals", "ARRIVALS", "--speedup", "0"), "speedup"),
        (("http://127.0.0.1:9", "--rate", 1, "--prompts", "ASKS", "--prompt-words", 3), "prompt-words"),
        (("http://127.0.0.1:9", "--rate", 1, "--extra-body", "[1]"), "extra-body"),
    ],
)
def test_wrong_words_are_named(files, words, named):
    paths = {"ARRIVALS": files / "arrivals.csv", "ASKS": files / "asks.txt"}
    answer = run(*(paths.get(word, word) for word in words))
    assert answer.exit_code != 0
    assert named in str(answer.exception)
