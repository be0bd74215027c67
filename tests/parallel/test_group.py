"""What a group exchanges, against the obvious; what it refuses; how it is joined."""

from __future__ import annotations

import pickle
import socket

import pytest
import torch

from evenmoe.errors import ConfigError, RankError, ShapeError
from evenmoe.parallel import Group, init, joining, stores
from evenmoe.parallel.joining import Place, join, read_place
from evenmoe.parallel.stores import serve_store
from tests.parallel import workers
from tests.parallel.ranks import run_ranks

TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_each_collective_brings_what_it_should(num_ranks):
    outcomes = run_ranks(workers.collectives, num_ranks, expected=range(num_ranks), timeout_s=30.0)
    check_collectives([outcome.value for outcome in outcomes])


def check_collectives(found):
    """Compare with the exchange written down pair by pair; `launch` is checked with this too."""
    ranks = range(len(found))
    for rank, values in enumerate(found):
        rows = [[source * 10 + rank] * 2 for source in ranks for _ in range(workers.counts(source, rank))]
        for dtype in workers.DTYPES:
            kind = bool if dtype == torch.bool else (float if dtype.is_floating_point else int)
            assert values["received"][str(dtype)] == [[kind(x) for x in row] for row in rows]
        top = float(len(found) - 1)
        assert values["reduced"] == {
            "sum": [sum(map(float, ranks)), len(found)],
            "max": [top, 1],
            "min": [0, 1],
        }
        assert values["gathered"] == [[other, 7] for other in ranks]
        assert values["gathered scalar"] == list(ranks)
        assert values["objects"] == [{"rank": other} for other in ranks]


def test_alone_copies():
    with Group.alone() as group:
        found = workers.collectives(group)
    check_collectives([found])
    sent = {"rank": 0}
    assert Group.alone().all_gather_objects(sent)[0] is not sent


def test_counts_that_disagree_with_the_rows_are_refused():
    group, rows = Group.alone(), torch.zeros(3, 2)
    with pytest.raises(ShapeError, match=r"input_splits \[2\] must be 1 counts that sum to the 3 rows"):
        group.all_to_all(rows.clone(), rows, [3], [2])
    with pytest.raises(ShapeError, match=r"output_splits \[3, 0\]"):
        group.all_to_all(rows.clone(), rows, [3, 0], [3])
    with pytest.raises(ShapeError, match="same shape and dtype"):
        group.all_to_all(rows.long(), rows, [3], [3])
    with pytest.raises(ConfigError, match="op = 'mean' is not allowed: one of sum, max, min"):
        group.all_reduce(rows, "mean")


@pytest.mark.parametrize("name", sorted(TORCHRUN))
def test_a_missing_variable_is_named(name, monkeypatch):
    for other, value in TORCHRUN.items():
        monkeypatch.setenv(other, value)
    monkeypatch.delenv(name)
    with pytest.raises(
        ConfigError, match=f"{name} = None is not allowed: set: start this script with torchrun"
    ):
        init()


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("WORLD_SIZE", "0", "from 1"),
        ("WORLD_SIZE", "two", "a whole number"),
        ("RANK", "2", "from 0 to 1"),
        ("MASTER_PORT", "70000", "from 1 to 65535"),
    ],
)
def test_a_wrong_variable_is_named(name, value, allowed):
    with pytest.raises(ConfigError, match=f"{name} = '{value}' is not allowed: .*{allowed}"):
        read_place({**TORCHRUN, name: value})


def test_settings_that_cannot_act_are_refused(monkeypatch):
    place = read_place(TORCHRUN)
    for timeout_s in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="timeout_s"):
            join(place, backend=None, timeout_s=timeout_s)
    with pytest.raises(
        ConfigError, match="backend = 'mpi' is not allowed: one of those that work here: gloo"
    ):
        join(place, backend="mpi", timeout_s=1.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"backend = 'nccl' .*nccl needs a GPU"):
        join(place, backend="nccl", timeout_s=1.0)


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"MASTER_PORT = {port} is not allowed: a free port"):
            join(read_place({**TORCHRUN, "MASTER_PORT": str(port)}), backend="gloo", timeout_s=1.0)


@pytest.mark.parametrize(("host", "address"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "0.0.0.0")])
def test_the_store_listens_on_ipv4(monkeypatch, host, address):
    """So that no connection is looked up in the DNS; and on no other address than the loopback where that serves."""
    role = {}
    monkeypatch.setattr(stores, "_tcp_store", lambda host, port, timeout_s, **given: role.update(given))
    serve_store(host, 0, "port", 5.0)
    with socket.socket(fileno=role["master_listen_fd"]) as listening:
        assert (listening.family, listening.getsockname()[0]) == (socket.AF_INET, address)


def test_who_does_not_come_is_named(monkeypatch):
    monkeypatch.setattr(joining, "JOIN_S", 0.3)
    store = serve_store("127.0.0.1", 0, "port", 5.0)
    place = Place(
        rank=1,
        num_ranks=4,
        local_rank=1,
        host="127.0.0.1",
        port=store.port,
        is_store_hosted=True,
        prefix="late",
    )
    with pytest.raises(
        RankError, match=r"rank 0 did not join .* within 0.3 s \(neither did ranks 2, 3\)"
    ) as caught:
        join(place, backend="gloo", timeout_s=0.1)
    assert caught.value.rank == 0


def test_a_store_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(joining, "JOIN_S", 0.3)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        variables = {**TORCHRUN, "RANK": "1", "MASTER_PORT": str(port)}
        with pytest.raises(RankError, match=f"rank 0 does not serve the ranks' store at 127.0.0.1:{port}"):
            join(read_place(variables), backend="gloo", timeout_s=0.1)
        agent = {**variables, "TORCHELASTIC_USE_AGENT_STORE": "True"}
        with pytest.raises(RankError, match="the launcher's store does not answer"):
            join(read_place(agent), backend="gloo", timeout_s=0.1)


def test_the_error_travels_between_processes():
    error = pickle.loads(pickle.dumps(RankError(2, "died")))
    assert (error.rank, error.reason, str(error)) == (2, "died", "rank 2 died")
    assert str(RankError(None, "the store is gone")) == "the store is gone"
