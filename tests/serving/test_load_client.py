"""The client against a server that does what it is told to: what is measured, and what each failure is called."""

import asyncio

import pytest

from evenmoe.errors import ConfigError
from evenmoe.serving.load import ClientOptions, Planned, run_load, summarise
from evenmoe.serving.load.client import served_model
from tests.serving.fake_server import DONE, OK, FakeServer, event, refusal


def planned(*times_s, text="hello", max_tokens=3):
    return [Planned(at_s=at_s, text=text, topic="t", max_tokens=max_tokens) for at_s in times_s]


def send(script, plan, **options):
    server = FakeServer(script)

    async def run():
        async with server.running() as url:
            return await run_load(plan, ClientOptions(url=url, model="m", **options))

    records, seconds = asyncio.run(run())
    return records, seconds, server


async def three_tokens(_body, write):
    await write(OK)
    for word in ("a", "b", "c"):
        await write(event(word), 0.02)
    await write(event(usage={"prompt_tokens": 5, "completion_tokens": 3}) + DONE)


def test_a_finished_request_has_its_times_and_the_servers_own_counts():
    (record,), seconds, server = send(three_tokens, planned(0.0))
    assert record.outcome == "finished"
    assert (record.num_prompt_tokens, record.num_tokens) == (5, 3)
    assert record.planned_s <= record.sent_s < record.first_s < record.last_s <= record.ended_s <= seconds
    assert record.tpot_s == pytest.approx((record.last_s - record.first_s) / 2)
    assert server.paths == ["/v1/completions"]
    assert server.bodies[0]["prompt"] == "hello"
    assert server.bodies[0]["max_tokens"] == 3


def test_requests_go_out_when_due_however_many_are_open():
    async def slow(body, write):
        await asyncio.sleep(0.3)
        await three_tokens(body, write)

    records, _seconds, server = send(slow, planned(*[0.01 * i for i in range(12)]))
    assert server.most_open == 12
    assert summarise(records, 1.0).most_in_flight == 12


def test_latency_counts_from_when_a_request_was_due():
    records, _seconds, _server = send(three_tokens, planned(0.0, 0.05))
    for record in records:
        assert record.latency_s == record.ended_s - record.planned_s
        assert record.ttft_s == record.first_s - record.planned_s


async def refuse(_body, write):
    await write(refusal(400, "expert_load has 3 entries, not 32"))


async def break_down(_body, write):
    await write(refusal(500, "engine died"))


async def stop_early(_body, write):
    await write(OK + event("a"))


async def say_error(_body, write):
    await write(OK + event("a") + b'data: {"error": {"message": "worker killed"}}\n\n')


async def talk_nonsense(_body, write):
    await write(OK + b"data: {broken\n\n")


async def hang(_body, _write):
    await asyncio.sleep(5)


async def hang_up(_body, _write):
    return


@pytest.mark.parametrize(
    ("script", "outcome", "words"),
    [
        (refuse, "refused", "HTTP 400: expert_load has 3 entries, not 32"),
        (break_down, "failed", "HTTP 500: engine died"),
        (stop_early, "cut", "the stream ended"),
        (say_error, "failed", "worker killed"),
        (talk_nonsense, "failed", "no JSON"),
        (hang, "timeout", "no end within 0.3 s"),
        (hang_up, "failed", "RemoteProtocolError"),
    ],
)
def test_each_failure_has_its_name_and_hurts_no_other(script, outcome, words):
    async def one_bad(body, write):
        await (script if body["prompt"] == "bad" else three_tokens)(body, write)

    plan = planned(0.0) + planned(0.0, text="bad") + planned(0.01)
    records, seconds, _server = send(one_bad, plan, timeout_s=0.3)
    assert [record.outcome for record in records] == ["finished", outcome, "finished"]
    assert words in records[1].error
    assert records[1].latency_s is None
    result = summarise(records, seconds)
    assert result.outcomes == {"finished": 2, outcome: 1}
    assert list(result.errors.values()) == [1]


def test_nobody_listens():
    records, _seconds = asyncio.run(
        run_load(planned(0.0), ClientOptions(url="http://127.0.0.1:9", model="m", timeout_s=5))
    )
    assert records[0].outcome == "failed"
    assert "ConnectError" in records[0].error


def test_chat_and_extra_fields():
    async def chat(_body, write):
        await write(OK + b'data: {"choices": [{"delta": {"content": "hi"}}]}\n\n' + DONE)

    extra = {"vllm_xargs": {"expert_load": [1.0]}}
    (record,), _seconds, server = send(chat, planned(0.0), chat=True, ignore_eos=True, extra=extra)
    assert record.num_tokens == 1
    assert server.paths == ["/v1/chat/completions"]
    body = server.bodies[0]
    assert body["messages"] == [{"role": "user", "content": "hello"}]
    assert body["ignore_eos"]
    assert body["vllm_xargs"] == extra["vllm_xargs"]


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_the_address_may_be_given_with_and_without_its_version(url):
    assert ClientOptions(url=url, model="m").endpoint == "http://h:1/v1/completions"


def test_an_address_without_a_scheme_is_refused():
    with pytest.raises(ConfigError, match="url"):
        ClientOptions(url="localhost:8000", model="m")


def test_no_server_is_one_clear_line():
    with pytest.raises(ConfigError, match=r"url = 'http://127.0.0.1:9'.*lists its models"):
        asyncio.run(served_model("http://127.0.0.1:9"))
