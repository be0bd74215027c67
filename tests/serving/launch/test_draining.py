"""Draining as an ASGI middleware: what is counted, what is refused, and when the server is stopped."""

import asyncio
import json

import pytest

from evenmoe.serving.launch.draining import Draining


class App:
    """An app whose answers wait for `may_end`, and that fails at /fail."""

    def __init__(self):
        self.may_end = asyncio.Event()
        self.begun = []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            return
        self.begun.append(scope["path"])
        if scope["path"] == "/upload":
            while (await receive())["more_body"]:
                pass
        if scope["path"] == "/fail":
            raise RuntimeError("broken")
        if scope["path"] != "/metrics":
            await self.may_end.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-from", b"app")]})
        await send({"type": "http.response.body", "body": scope["path"].encode()})


class World:
    """A draining app with the messages of each request, and how often it was stopped."""

    def __init__(self):
        self.stops = 0
        self.app = App()
        self.draining = Draining(self.app, self._stop)

    def _stop(self):
        self.stops += 1

    def request(self, path, kind="http", body=()):
        """Begin a request; gives its task and the messages that it gets. A body that lacks its end never gets one."""
        messages = []
        parts = list(body)
        headers = [(b"content-length", b"6")] if body else []

        async def send(message):
            messages.append(message)

        async def receive():
            if not parts:
                await asyncio.Event().wait()
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": part != b"end"}

        scope = {"type": kind, "path": path, "headers": headers}
        return asyncio.ensure_future(self.draining(scope, receive, send)), messages


def run(scenario):
    asyncio.run(scenario(World()))


async def turn():
    for _ in range(5):
        await asyncio.sleep(0)


def test_requests_in_flight_finish_before_the_stop():
    async def scenario(world):
        first, told = world.request("/v1/completions")
        second, _ = world.request("/v1/completions")
        await turn()
        world.draining.drain()
        await turn()
        assert world.stops == 0
        world.app.may_end.set()
        await asyncio.gather(first, second)
        assert world.stops == 1
        assert told[0]["status"] == 200
        assert told[1]["body"] == b"/v1/completions"

    run(scenario)


def test_an_idle_server_stops_at_once_and_once_only():
    async def scenario(world):
        world.draining.drain()
        world.draining.drain()
        assert world.stops == 1

    run(scenario)


@pytest.mark.parametrize("path", ["/v1/completions", "/health", "/v1/models"])
def test_new_requests_are_refused_while_draining(path):
    async def scenario(world):
        open_one, _ = world.request("/v1/completions")
        await turn()
        world.draining.drain()
        late, told = world.request(path)
        await late
        headers = dict(told[0]["headers"])
        assert told[0]["status"] == 503
        assert headers[b"connection"] == b"close"
        assert headers[b"retry-after"]
        assert int(headers[b"content-length"]) == len(told[1]["body"])
        assert json.loads(told[1]["body"])["error"]["code"] == 503
        assert world.app.begun == ["/v1/completions"]
        world.app.may_end.set()
        await open_one
        assert world.stops == 1

    run(scenario)


def test_metrics_are_told_to_the_end_and_hold_nothing_up():
    async def scenario(world):
        open_one, _ = world.request("/v1/completions")
        await turn()
        world.draining.drain()
        scrape, told = world.request("/metrics")
        await scrape
        assert told[0]["status"] == 200
        assert world.stops == 0
        world.app.may_end.set()
        await open_one
        assert world.stops == 1

    run(scenario)


def test_an_answer_begun_while_draining_closes_its_connection():
    async def scenario(world):
        before, told_before = world.request("/v1/completions")
        world.app.may_end.set()
        await before
        assert (b"connection", b"close") not in told_before[0]["headers"]
        world.app.may_end.clear()
        during, told = world.request("/v1/completions")
        await turn()
        world.draining.drain()
        world.app.may_end.set()
        await during
        assert told[0]["headers"] == [(b"x-from", b"app"), (b"connection", b"close")]

    run(scenario)


def test_requests_that_fail_or_are_given_up_are_no_longer_in_flight():
    async def scenario(world):
        failing, _ = world.request("/fail")
        with pytest.raises(RuntimeError, match="broken"):
            await failing
        given_up, _ = world.request("/v1/completions")
        await turn()
        world.draining.drain()
        assert world.stops == 0
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        assert world.stops == 1

    run(scenario)


def test_a_request_whose_body_is_not_whole_is_refused_and_holds_nothing_up():
    async def scenario(world):
        half, told = world.request("/upload", body=(b"abc",))
        await turn()
        world.draining.drain()
        await half
        assert [message.get("status") for message in told] == [503, None]
        assert world.stops == 1

    run(scenario)


def test_a_request_whose_body_is_whole_is_accepted():
    async def scenario(world):
        whole, told = world.request("/upload", body=(b"abc", b"end"))
        half, told_half = world.request("/upload", body=(b"abc",))
        await turn()
        world.draining.drain()
        await half
        assert told_half[0]["status"] == 503
        assert world.stops == 0
        world.app.may_end.set()
        await whole
        assert told[0]["status"] == 200
        assert world.stops == 1

    run(scenario)


def test_websockets_are_passed_through():
    async def scenario(world):
        world.draining.drain()
        world.app.may_end.set()
        socket, told = world.request("/v1/realtime", kind="websocket")
        await socket
        assert told[0]["status"] == 200

    run(scenario)


UVICORN = """
import asyncio, sys
import uvicorn
from evenmoe.serving.launch.draining import Draining

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive(); await send({"type": "lifespan.startup.complete"})
        await receive(); await send({"type": "lifespan.shutdown.complete"})
        return
    print("accepted " + scope["path"], flush=True)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/stream":
        for number in range(10):
            await send({"type": "http.response.body", "body": b"%d " % number, "more_body": True})
            await asyncio.sleep(0.1)
    await send({"type": "http.response.body", "body": b"end"})

try:
    uvicorn.run(Draining(app), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
except KeyboardInterrupt:
    pass
"""


def keep_asking(url):
    import urllib.request

    for _ in range(200):
        urllib.request.urlopen(url, timeout=30).read()


def test_under_uvicorn_a_stream_ends_whole_after_sigterm():
    import signal
    import subprocess
    import sys
    import threading
    import time
    import urllib.error
    import urllib.request

    from evenmoe.serving.launch.addresses import claim_port, is_healthy, url_of

    pytest.importorskip("uvicorn")
    port = claim_port("127.0.0.1", 0)
    url = url_of("127.0.0.1", port)
    process = subprocess.Popen([sys.executable, "-c", UVICORN, str(port)], stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 30
        while not is_healthy(url):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        bodies = []
        reader = threading.Thread(
            target=lambda: bodies.append(urllib.request.urlopen(url + "/stream", timeout=30).read())
        )
        reader.start()
        while process.stdout.readline() != "accepted /stream\n":
            pass
        process.send_signal(signal.SIGTERM)
        with pytest.raises(urllib.error.HTTPError) as refused:
            keep_asking(url + "/other")
        assert refused.value.code == 503
        reader.join(30)
        assert bodies == [b"0 1 2 3 4 5 6 7 8 9 end"]
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
