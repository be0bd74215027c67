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


async def say_a_number(_body, write):
    await write(OK + b"data: 3\n\n")


async def answer_in_another_form(_body, write):
    await write(OK + b'data: {"choices": ["hello"]}\n\n')


async def say_what_a_terminal_obeys(_body, write):
    await write(refusal(400, "no\x1b]0;mine\x07\nway " + "x" * 500))


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
        (say_a_number, "failed", "no object"),
        (answer_in_another_form, "failed", "another form"),
        (say_what_a_terminal_obeys, "refused", "HTTP 400: no ]0;mine  way xxx"),
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


def test_each_request_has_an_id_of_its_own_that_the_answer_bears():
    async def echo(body, write):
        await write(OK + event("a", id=f"cmpl-{body['id']}") + DONE)

    records, seconds, server = send(echo, planned(0.0, 0.0, 0.0))
    assert len({record.id for record in records}) == 3
    assert sorted(server.ids) == [record.id for record in records]
    assert [record.answer_ids for record in records] == [(f"cmpl-{record.id}",) for record in records]
    result = summarise(records, seconds)
    assert (result.lost, result.doubled, result.strayed) == (0, 0, 0)


END = {"choices": [{"text": "", "finish_reason": "length"}]}


async def answer_twice(_body, write):
    await write(OK + event("a") + event(**END) + event("a") + event(**END) + DONE)


async def talk_after_the_end(_body, write):
    await write(OK + event("a") + event(**END) + event("b") + DONE)


async def answer_again_after_done(_body, write):
    await write(OK + event("a") + event(**END) + DONE)
    await write(event("a") + event(**END) + DONE, 0.05)


@pytest.mark.parametrize("script", [answer_twice, talk_after_the_end, answer_again_after_done])
def test_an_answer_that_comes_twice_is_seen(script):
    async def one_bad(body, write):
        await (script if body["prompt"] == "bad" else three_tokens)(body, write)

    records, seconds, _server = send(one_bad, planned(0.0) + planned(0.0, text="bad"))
    result = summarise(records, seconds)
    assert result.outcomes == {"finished": 2}
    assert result.doubled == 1


def test_a_stream_that_stays_open_after_its_end_costs_no_latency(monkeypatch):
    monkeypatch.setattr("evenmoe.serving.load.client.AFTER_DONE_S", 0.2)

    async def linger(_body, write):
        await write(OK + event("a") + DONE)
        await asyncio.sleep(5)

    (record,), seconds, _server = send(linger, planned(0.0), timeout_s=0.3)
    assert record.outcome == "finished"
    assert record.ended_s + 0.1 < seconds


def test_interrupted_what_was_open_is_told_and_what_was_not_sent_is_not():
    async def slow(body, write):
        if body["prompt"] == "slow":
            await asyncio.sleep(5)
        await three_tokens(body, write)

    told = []

    async def run():
        async with FakeServer(slow).running() as url:
            plan = planned(0.0) + planned(0.0, text="slow") + planned(30.0)
            task = asyncio.create_task(run_load(plan, ClientOptions(url=url, model="m"), told.append))
            await asyncio.sleep(0.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    assert sorted((record.index, record.outcome) for record in told) == [(0, "finished"), (1, "interrupted")]
    assert summarise(told, 1.0).lost == 0


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
    assert body["stream_options"] == {"include_usage": True}
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
