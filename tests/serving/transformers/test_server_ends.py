"""Clients that go, servers that are stopped, engines that die: nobody is left waiting, nothing is lost unsaid."""

import json
import signal
import socket
import subprocess
import sys
import threading

import httpx2
import pytest

from evenmoe.serving.transformers import EngineError
from evenmoe.serving.transformers.server.__main__ import main
from tests.serving.transformers.server_runs import PATIENCE_S, running


def begin_stream(server, **fields):
    """A raw connection with a streamed answer that has begun."""
    body = json.dumps(server.body(stream=True, **fields)).encode()
    connection = socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    assert b"200 OK" in connection.recv(4096)
    return connection


def asked_at_once(server, number, **fields):
    """Ask in threads; returns their answers, to be filled, and the threads."""
    answers = [None] * number

    def ask(index):
        try:
            answers[index] = server.post(**fields)
        except httpx2.HTTPError as error:
            answers[index] = error

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    return answers, threads


def test_a_client_that_vanishes_frees_its_request(text_model, text_tokenizer):
    with running(text_model, text_tokenizer, max_num_seqs=2) as server:
        long = {"max_tokens": 900, "ignore_eos": True}
        streams = [begin_stream(server, **long) for _ in range(2)]
        impatient = httpx2.Client(base_url=server.url, timeout=0.3)
        with pytest.raises(httpx2.TimeoutException):
            impatient.post("/v1/completions", json=server.body(**long))
        impatient.close()
        server.wait_until(lambda: server.engine.num_open == 2)
        for connection in streams:
            connection.close()
        server.wait_until(lambda: server.engine.num_open == 0)
        assert server.text()
        scheduling = server.engine.session.scheduling
        server.wait_until(lambda: (scheduling().num_waiting, scheduling().num_running) == (0, 0))
        assert not server.engine._manager.batch_processor.cache.cache_allocators["full_attention"].block_table
        configured = server.engine.session._configured
        kept = (configured._notes, configured.scheduler._hashes, configured.scheduler._begun)
        assert max(map(len, kept)) <= 1  # of the last one, until the next step


def test_stopped_under_load_accepted_requests_finish(text_model, text_tokenizer):
    with running(text_model, text_tokenizer, max_num_seqs=2) as server:
        answers, threads = asked_at_once(server, 12, max_tokens=12, ignore_eos=True)
        server.wait_until(lambda: server.engine.num_open == 12)
        server.server.stop()
        server.wait_until(lambda: server.post().status_code == 503)
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * 12
        assert {answer.json()["usage"]["completion_tokens"] for answer in answers} == {12}
        assert server.ended() is None


def test_a_stop_does_not_wait_for_ever(text_model, text_tokenizer):
    with running(text_model, text_tokenizer, max_num_seqs=1, shutdown_timeout_s=0.3) as server:
        answers, threads = asked_at_once(server, 3, max_tokens=1000, ignore_eos=True)
        server.wait_until(lambda: server.engine.num_open == 3)
        server.server.stop()
        for thread in threads:
            thread.join()
        assert {answer.status_code for answer in answers} == {500}
        assert "0.3 s after" in answers[0].json()["error"]["message"]
        failure = server.ended()
        assert isinstance(failure, EngineError)
        assert "3 accepted requests were not finished" in str(failure)


def test_an_engine_that_dies_says_why_to_everybody(text_model, text_tokenizer):
    with running(text_model, text_tokenizer, max_num_seqs=2) as server:
        streams = [begin_stream(server, max_tokens=900, ignore_eos=True) for _ in range(2)]
        answers, threads = asked_at_once(server, 2)
        server.wait_until(lambda: server.engine.num_open == 4)

        def fail(*_call):
            raise RuntimeError("out of memory")

        handle = text_model.register_forward_pre_hook(fail)
        for thread in threads:
            thread.join()
        handle.remove()
        assert {answer.status_code for answer in answers} == {500}
        assert all("out of memory" in answer.json()["error"]["message"] for answer in answers)
        for connection in streams:
            told = b"".join(iter(lambda connection=connection: connection.recv(65536), b""))
            assert b"out of memory" in told
            assert b"[DONE]" in told
        failure = server.ended()
        assert isinstance(failure, EngineError)
        assert "out of memory" in str(failure)


def test_too_many_open_requests_are_refused(text_model, text_tokenizer):
    with running(text_model, text_tokenizer, max_num_seqs=1, max_waiting=2) as server:
        streams = [begin_stream(server, max_tokens=900, ignore_eos=True) for _ in range(2)]
        refused = server.post()
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
        for connection in streams:
            connection.close()
        server.wait_until(lambda: server.engine.num_open == 0)
        assert server.text()


def options_file(tmp_path, options):
    path = tmp_path / "options.json"
    path.write_text(json.dumps(options))
    return str(path)


def test_a_process_ends_with_0_when_it_is_asked_to_and_has_answered(tmp_path):
    path = options_file(tmp_path, {"model": "bundled:text", "port": 0, "dtype": "float32"})
    command = [sys.executable, "-m", "evenmoe.serving.transformers.server", "--options", path]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        url = next(line.split()[-1] for line in server.stderr if "listening on" in line)
        log = threading.Thread(target=server.stderr.read)
        log.start()
        body = {
            "model": "bundled:text",
            "prompt": "The",
            "max_tokens": 60,
            "ignore_eos": True,
            "stream": True,
        }
        with httpx2.stream("POST", f"{url}/v1/completions", json=body, timeout=PATIENCE_S) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: ")
            server.send_signal(signal.SIGTERM)
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert server.wait(PATIENCE_S) == 0
        log.join()


def test_a_process_that_cannot_serve_says_why_last(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["server", "--options", options_file(tmp_path, {"model": "m", "ports": 1})]
    )
    assert main() == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ports = 1 is not allowed: no such field; there are model, ")
