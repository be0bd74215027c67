"""Ports that are free, taken or out of reach, and servers that answer or do not."""

import socket

import pytest

from evenmoe.errors import ConfigError
from evenmoe.serving.launch.addresses import claim_port, is_healthy, url_of


def test_port_0_takes_a_free_one_that_can_be_bound_afterwards():
    port = claim_port("127.0.0.1", 0)
    assert port > 0
    assert claim_port("127.0.0.1", port) == port


def test_a_taken_port_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port = {port} .*nobody listens on; 0 takes a free one"):
            claim_port("127.0.0.1", port)


@pytest.mark.parametrize("host", ["no such host", "192.0.2.1"])
def test_a_host_that_is_not_of_this_machine_is_named(host):
    with pytest.raises(ConfigError, match=f"host = '{host}'"):
        claim_port(host, 0)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("localhost", "http://localhost:80"),
    ],
)
def test_urls_that_reach_a_server_from_its_machine(host, url):
    assert url_of(host, 80) == url


def test_nobody_and_somebody_who_does_not_speak_http_are_not_healthy():
    assert not is_healthy(url_of("127.0.0.1", claim_port("127.0.0.1", 0)))
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        assert not is_healthy(url_of("127.0.0.1", mute.getsockname()[1]), timeout_s=0.1)
