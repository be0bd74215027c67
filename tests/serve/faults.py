"""What clients do wrong, whichever server answers: requests that must be refused, and clients that must be survived.

`REFUSALS` and `WRONG_LOADS` are requests with one mistake each; `INTRUSIONS` are clients that break off.
`Bystanders` are the others: they keep asking the same questions meanwhile, and know the answers.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2

JSON = "application/json"
PATIENCE_S = 60.0
"""Longer than anything here may take on a busy machine."""
QUESTIONS = (
    "def read_lines(path):\n    with open(",
    "The history of the town begins in",
    "Wenn die Datei nicht",
)


@dataclass(frozen=True, kw_only=True)
class Door:
    """A running server, as its clients see it. long_tokens: what a client that will not be there asks for."""

    url: str
    model: str
    long_tokens: int = 200

    def body(self, **fields: Any) -> dict[str, Any]:
        """A good request for a few tokens, but for `fields`."""
        return {"model": self.model, "prompt": "The file", "max_tokens": 4, "temperature": 0} | fields

    def long_body(self) -> dict[str, Any]:
        """A good request that streams for a while."""
        return self.body(max_tokens=self.long_tokens, ignore_eos=True, stream=True)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A request with one mistake, and a word that the server's answer must have.

    fields: as in a good request, but for these. raw: the body as it is; MODEL stands for the model's name.
    """

    name: str
    says: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    raw: bytes | None = None
    content_type: str = JSON

    def content(self, door: Door) -> bytes:
        """The body's bytes."""
        if self.raw is None:
            return json.dumps(door.body(**self.fields)).encode()
        return self.raw.replace(b"MODEL", door.model.encode())


def _wrong(name: str, says: str = "", **fields: Any) -> Refusal:
    return Refusal(name=name, says=says, fields=fields)


def _raw(name: str, raw: bytes, says: str = "") -> Refusal:
    return Refusal(name=name, says=says, raw=raw)


_BROKEN_BODIES = [
    _raw("empty body", b""),
    _raw("broken JSON", b'{"model": "MODEL", "prompt": "The file", "max_tok'),
    _raw("no JSON", b"prompt=The+file"),
    _raw("not UTF-8", b'{"model": "MODEL", "prompt": "\xff\xfe"}'),
    _raw("a list", b'["The file"]'),
    _raw("null", b"null"),
    _raw("deeply nested", b'{"model": "MODEL", "prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    Refusal(name="wrong content type", says="json", content_type="text/plain"),
    Refusal(name="form", says="json", content_type="application/x-www-form-urlencoded"),
]
_WRONG_PROMPTS = [
    _raw("no prompt", b'{"model": "MODEL", "max_tokens": 4}', "prompt"),
    _wrong("prompt null", "prompt", prompt=None),
    _wrong("prompt a number", "prompt", prompt=7),
    _wrong("prompt an object", "prompt", prompt={"text": "The file"}),
    _wrong("prompt of mixed types", "prompt", prompt=[5, "file"]),
    _wrong("prompt empty", "prompt", prompt=""),
    _wrong("prompt of no tokens", "prompt", prompt=[]),
    _wrong("prompts of no tokens", "prompt", prompt=[[]]),
    _wrong("token id negative", "prompt", prompt=[5, -1]),
    _wrong("token id beyond the vocabulary", "4096", prompt=[5, 4096]),
    _wrong("token id beyond 64 bits", "vocabulary", prompt=[2**70]),
    _wrong("100 KB of text", "context length", prompt="the file is " * 8_500),
    _wrong("100 KB without a space", "context length", prompt="x" * 102_400),
    _wrong("100,000 token ids", "context length", prompt=[5] * 100_000),
]
_WRONG_SETTINGS = [
    _wrong("unknown model", "does not exist", model="another"),
    _wrong("max_tokens zero", "max_tokens", max_tokens=0),
    _wrong("max_tokens negative", "max_tokens", max_tokens=-1),
    _wrong("max_tokens text", "max_tokens", max_tokens="many"),
    _wrong("max_tokens a fraction", "max_tokens", max_tokens=1.5),
    _wrong("max_tokens huge", "max_tokens", max_tokens=10**12),
    _wrong("max_tokens beyond 64 bits", "max_tokens", max_tokens=2**70),
    _wrong("temperature negative", "temperature", temperature=-1),
    _wrong("temperature text", "temperature", temperature="hot"),
    _wrong("temperature NaN", "temperature", temperature=math.nan),
    _wrong("temperature infinite", "temperature", temperature=math.inf),
    _raw(
        "temperature beyond a float",
        b'{"model": "MODEL", "prompt": "The file", "temperature": 1e999}',
        "temperature",
    ),
    _wrong("top_p above 1", "top_p", top_p=2),
    _wrong("n zero", "n", n=0),
    _wrong("n huge", "n", n=10**9),
    _wrong("seed beyond 64 bits", "seed", seed=2**80),
    _wrong("stop a number", "stop", stop=7),
    _wrong("stream text", "stream", stream="perhaps"),
    _wrong("priority beyond 64 bits", "priority", priority=2**70),
]
_RIGHT_LOAD = [1.0] * 128
"""A load for each of the bundled model's layers and experts."""


def _load(name: str, says: str, load: Any) -> Refusal:
    return _wrong(f"load {name}", says, vllm_xargs={"expert_load": load})


WRONG_LOADS = [
    _load("of no numbers", "expert_load", []),
    _load("too short", "128", _RIGHT_LOAD[1:]),
    _load("too long", "128", [*_RIGHT_LOAD, 1.0]),
    _load("of 100,000 numbers", "128", [1.0] * 100_000),
    _load("with NaN", "expert_load", [math.nan, *_RIGHT_LOAD[1:]]),
    _load("with infinity", "expert_load", [*_RIGHT_LOAD[1:], math.inf]),
    _load("with a negative number", "expert_load", [*_RIGHT_LOAD[1:], -0.5]),
    _load("whose sum overflows", "expert_load", [1e308] * 128),
    _load("with a number beyond a float", "", [*_RIGHT_LOAD[1:], 10**400]),
    _load("of texts", "expert_load", ["much"] * 128),
    _load("nested", "expert_load", [[1.0] * 32] * 4),
    _load("a number", "expert_load", 1.0),
    _load("a text", "expert_load", "1.0"),
    _load("null", "expert_load", None),
    _load("an object", "expert_load", {"0": 1.0}),
    _wrong("extra arguments a list", "vllm_xargs", vllm_xargs=[1.0]),
    _wrong("extra arguments a text", "vllm_xargs", vllm_xargs="expert_load"),
]
"""For servers that go by the loads of clients; others do not read them."""
_HALF_CHARACTERS = [
    _raw("half a character in the prompt", b'{"model": "MODEL", "prompt": "\\ud800 file"}'),
    _raw("half a character in the model", b'{"model": "\\ud800", "prompt": "The file"}'),
    _raw("half a character in stop", b'{"model": "MODEL", "prompt": "The file", "stop": ["\\ud800", 3]}'),
    _raw("half a character in a name", b'{"model": "MODEL", "prompt": "The file", "stop": {"\\ud800": 3}}'),
]
REFUSALS = [*_BROKEN_BODIES, *_WRONG_PROMPTS, *_WRONG_SETTINGS, *_HALF_CHARACTERS]


def send(door: Door, content: bytes, content_type: str = JSON) -> httpx2.Response:
    """Post one completion request."""
    with httpx2.Client(
        timeout=PATIENCE_S, verify=False
    ) as http:  # certificates are slow to load, and not asked for
        return http.post(
            f"{door.url}/v1/completions", content=content, headers={"content-type": content_type}
        )


def check_refused(door: Door, refusal: Refusal) -> None:
    """The answer must be a 4xx in JSON that says what is wrong, without sending the request back."""
    answer = send(door, refusal.content(door), refusal.content_type)
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text[:300])
    body = answer.json()
    said = body["error"]["message"] if "error" in body else str(body["detail"])
    assert said.strip()
    assert refusal.says.lower() in said.lower(), said[:300]
    assert len(answer.content) < 4_000, "the answer repeats the request"


class Bystanders:
    """Clients that ask the same questions over and over, each waiting for its answer; every other one streams.

    With routing that lets requests compete for experts, an answer depends on who else is there: these are for servers
    without a limit, or with isolation "strict".
    """

    def __init__(self, door: Door, *, num_tokens: int = 8) -> None:
        self._door, self._num_tokens = door, num_tokens
        self._changed = threading.Condition()
        self._num_asked = [0] * len(QUESTIONS)
        self._num_answered = [0] * len(QUESTIONS)
        self._wrong: list[str] = []
        self._leaving = False

    @property
    def num_answered(self) -> int:
        """Answers so far, of all of them."""
        return sum(self._num_answered)

    @contextmanager
    def asking(self) -> Iterator[Bystanders]:
        """Ask each question once, alone; then all, until left. Raises AssertionError for any wrong answer."""
        expected = [self._ask(place) for place in range(len(QUESTIONS))]
        assert all(expected), expected
        threads = [
            threading.Thread(target=self._keep_asking, args=(place, text), daemon=True)
            for place, text in enumerate(expected)
        ]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._leaving = True
            for thread in threads:
                thread.join(PATIENCE_S)
        assert not self._wrong, self._wrong

    def check_so_far(self) -> None:
        """All answers until now must have been right."""
        assert not self._wrong, self._wrong

    def check(self) -> None:
        """Wait until each has had an answer to a question that it asked after now; all must have been right."""
        with self._changed:
            asked = list(self._num_asked)
            answered = self._changed.wait_for(
                lambda: (
                    self._wrong
                    or all(now > then for now, then in zip(self._num_answered, asked, strict=True))
                ),
                timeout=PATIENCE_S,
            )
            assert not self._wrong, self._wrong
            assert answered, f"no answer within {PATIENCE_S:g} s: {self._num_answered} of {asked}"

    def _keep_asking(self, place: int, expected: str) -> None:
        while not self._leaving:
            with self._changed:
                self._num_asked[place] += 1
            try:
                text = self._ask(place)
                wrong = "" if text == expected else f"{QUESTIONS[place]!r}: {text!r}, not {expected!r}"
            except Exception as error:
                wrong = f"{QUESTIONS[place]!r}: {type(error).__name__}: {error}"
            with self._changed:
                self._num_answered[place] += 1
                if wrong:
                    self._wrong.append(wrong)
                self._changed.notify_all()
            if wrong:
                return

    def _ask(self, place: int) -> str:
        """One question's answer."""
        streams = place % 2 == 1
        body = self._door.body(
            prompt=QUESTIONS[place], max_tokens=self._num_tokens, ignore_eos=True, stream=streams
        )
        answer = send(self._door, json.dumps(body).encode())
        assert answer.status_code == 200, answer.text[:300]
        if not streams:
            return str(answer.json()["choices"][0]["text"])
        events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]", events[-3:]
        told = [json.loads(event) for event in events[:-1]]
        assert all("error" not in event for event in told), told[-1]
        return "".join(choice["text"] for event in told for choice in event["choices"])


Intrusion = Callable[[Door], None]


@contextmanager
def connected(door: Door) -> Iterator[socket.socket]:
    """A bare connection to the server."""
    address = urlsplit(door.url)
    with socket.create_connection((str(address.hostname), int(address.port or 80)), PATIENCE_S) as line:
        yield line


def request_bytes(door: Door, *, length: int | None = None) -> bytes:
    """A long streaming request as it goes over the line, saying that its body has `length` bytes."""
    body = json.dumps(door.long_body()).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {urlsplit(door.url).netloc}\r\n"
        f"Content-Type: {JSON}\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n"
    )
    return head.encode() + body


def reset(line: socket.socket) -> None:
    """Break a connection off, as a client that crashed or lost its network: nothing is said to the server."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def read_until(line: socket.socket, mark: bytes) -> bytes:
    """Read until `mark` has come. Raises AssertionError where the server closes before."""
    heard = b""
    while mark not in heard:
        piece = line.recv(4096)
        assert piece, f"closed after {heard[-200:]!r}"
        heard += piece
    return heard


def vanish_before_an_answer(door: Door) -> None:
    """The request is sent whole; its sender is gone at once."""
    with connected(door) as line:
        line.sendall(request_bytes(door))


def vanish_mid_stream(door: Door) -> None:
    """The sender closes when the first tokens have come."""
    with connected(door) as line:
        line.sendall(request_bytes(door))
        read_until(line, b"data: ")


def crash_mid_stream(door: Door) -> None:
    """The connection breaks when the first tokens have come."""
    with connected(door) as line:
        line.sendall(request_bytes(door))
        read_until(line, b"data: ")
        reset(line)


def cut_the_body_short(door: Door) -> None:
    """The sender closes after half the body that it announced."""
    with connected(door) as line:
        line.sendall(request_bytes(door, length=5_000))


def crash_in_the_body(door: Door) -> None:
    """The connection breaks after half the body."""
    with connected(door) as line:
        line.sendall(request_bytes(door, length=5_000))
        reset(line)


def talk_tls(door: Door) -> None:
    """A TLS greeting to a server that speaks plain HTTP."""
    with connected(door) as line:
        line.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)))
        line.recv(4096)


def send_a_huge_header(door: Door) -> None:
    """A megabyte of one header; the server may close before it has all."""
    with connected(door) as line:
        try:
            line.sendall(b"POST /v1/completions HTTP/1.1\r\nX-Filler: " + b"x" * 1_000_000 + b"\r\n\r\n")
            line.recv(4096)
        except ConnectionError:
            pass


def say_a_wrong_length(door: Door) -> None:
    """A length that is no number."""
    with connected(door) as line:
        line.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n{}")
        assert b" 400 " in line.recv(4096)


INTRUSIONS: tuple[Intrusion, ...] = (
    vanish_before_an_answer,
    vanish_mid_stream,
    crash_mid_stream,
    cut_the_body_short,
    crash_in_the_body,
    talk_tls,
    send_a_huge_header,
    say_a_wrong_length,
)


@contextmanager
def stalled(door: Door, num_clients: int) -> Iterator[None]:
    """Clients that say nothing, that stop in mid-body, and that never read what they are sent; open meanwhile."""
    address = urlsplit(door.url)
    lines = []
    try:
        for place in range(num_clients):
            line = socket.create_connection((str(address.hostname), int(address.port or 80)), PATIENCE_S)
            lines.append(line)
            line.sendall((b"", request_bytes(door, length=5_000), request_bytes(door))[place % 3])
        yield
    finally:
        for line in lines:
            line.close()


def vanish_together(door: Door, num_clients: int) -> None:
    """Many clients with long requests, more than the server runs at once; all gone when the first has tokens."""
    lines = []
    address = urlsplit(door.url)
    try:
        for _ in range(num_clients):
            line = socket.create_connection((str(address.hostname), int(address.port or 80)), PATIENCE_S)
            lines.append(line)
            line.sendall(request_bytes(door))
        read_until(lines[0], b"data: ")
    finally:
        for line in lines:
            line.close()
