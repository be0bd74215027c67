"""A server in a thread of this process, and what its clients need."""

import asyncio
import json
import threading
import time
from contextlib import contextmanager

import httpx2

from evenmoe.serving.config import serving_config_of
from evenmoe.serving.transformers.server import Server, ServerOptions, make_engine

PATIENCE_S = 60


class Running:
    """A server that answers. failure: what `serve` raised, when it has ended."""

    def __init__(self, model, tokenizer, options):
        self.options, self.engine, self.failure = options, make_engine(model, options), None
        try:
            self.server = Server(self.engine, tokenizer, options)
        except BaseException:
            self.engine.stop()
            raise
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            asyncio.run(self.server.serve(self._note))
        except Exception as error:
            self.failure = error
        finally:
            self.engine.stop()
            self._ready.set()

    def _note(self, url):
        self.url = url
        self._ready.set()

    def start(self):
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)
        if self.failure is not None:
            raise self.failure

    def ended(self):
        """Wait for the end; return what was raised, or None."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return self.failure

    def client(self):
        return httpx2.Client(base_url=self.url, timeout=PATIENCE_S)

    def body(self, **fields):
        return {"model": self.options.name, "prompt": "The file", "max_tokens": 4, "temperature": 0} | fields

    def post(self, path="/v1/completions", **fields):
        with self.client() as http:
            content = json.dumps(self.body(**fields))  # escaped, so that anything can be sent
            return http.post(path, content=content, headers={"content-type": "application/json"})

    def text(self, **fields):
        """The answer's text."""
        answer = self.post(**fields)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]["text"]

    def stream(self, path="/v1/completions", **fields):
        """The events of a streamed answer; "[DONE]" last."""
        events = []
        with (
            self.client() as http,
            http.stream("POST", path, json=self.body(stream=True, **fields)) as answer,
        ):
            assert answer.status_code == 200
            for line in answer.iter_lines():
                if line:
                    data = line.removeprefix("data: ")
                    events.append(data if data == "[DONE]" else json.loads(data))
        return events

    def wait_until(self, holds):
        end = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < end, "it did not come to that"
            time.sleep(0.01)


@contextmanager
def running(model, tokenizer, serving=None, **options):
    """Run a server on a free port; it is stopped at the end, if it still runs."""
    fields = {"model": "text", "port": 0, "max_num_seqs": 4} | options
    server = Running(model, tokenizer, ServerOptions(serving=serving_config_of(serving or {}), **fields))
    server.start()
    try:
        yield server
    finally:
        if server._thread.is_alive():
            server.server.stop()
            server.server.stop()
        server.ended()
