"""Prompts and new tokens that share a call: the policy is for one phase, the other's tokens keep their experts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evenmoe.models.batch import Batch, CallReader
from evenmoe.models.layer import MoELayer
from evenmoe.models.padding import SpecialTokens
from evenmoe.models.probe import Confirmation
from evenmoe.models.recording import LoadRecorder
from evenmoe.models.routers import Routing
from evenmoe.models.scores import ScoreRule
from evenmoe.models.session import Session
from evenmoe.models.settings import AttachSettings, resolve_placement
from evenmoe.models.sites import Site
from evenmoe.routing import ExpertDrop, Fill, TokenDrop
from tests.models.attach_reference import tiny_model

NUM_EXPERTS, TOP_K = 8, 2
NOTHING = torch.nn.Module()
SITE = Site(
    name="layer",
    architecture="test",
    kind="contract",
    block=NOTHING,
    router=NOTHING,
    experts=None,
    num_experts=NUM_EXPERTS,
    num_free_experts=0,
    top_k=TOP_K,
)


def said(num_tokens, seed):
    logits = torch.randn(num_tokens, NUM_EXPERTS, generator=torch.Generator().manual_seed(seed)) * 2
    weight, index = logits.softmax(-1).topk(TOP_K)
    return Routing(logits, weight, index)


def step_of(policy, batch, routing, phases, devices=None, num_devices=1, min_tokens=None):
    """Route one layer's call; return its LayerStep."""
    placement = resolve_placement(None, [NUM_EXPERTS], num_devices)
    settings = AttachSettings(num_devices=num_devices, phases=phases, min_tokens=min_tokens)
    session = Session(policy, settings, LoadRecorder([SITE], placement))
    session.rows = devices
    steps = []
    session.observers.append(steps.append)
    session.enter(NOTHING, batch)
    rule = ScoreRule(function="softmax", renormalise="none")
    layer = MoELayer(0, SITE, Confirmation(rule, checked=True), session)
    layer.route(routing, torch.zeros(routing.index_TK.shape[0], 4))
    return steps[0]


def packed(lengths, new):
    """A batch of packed requests, some of which are new tokens."""
    length_B = torch.tensor(lengths)
    decode_T = torch.tensor(new).repeat_interleave(length_B)
    decode = bool(decode_T.all())
    return Batch(
        num_rows=len(lengths),
        num_tokens=sum(lengths),
        decode=decode,
        decode_T=None if decode or not decode_T.any() else decode_T,
        length_B=length_B,
    )


POLICIES = [
    TokenDrop(gamma=0.5),
    TokenDrop(gamma=0.5, keep="random"),
    TokenDrop(gamma=1.0, isolation="request"),
    TokenDrop(gamma=1.0, isolation="strict", level="device"),
    Fill(gamma=1.0),
    ExpertDrop(),
]


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@pytest.mark.parametrize("phases", ["prefill", "decode"])
@settings(max_examples=15, deadline=None)
@given(
    rows=st.lists(st.tuples(st.booleans(), st.integers(2, 20)), min_size=1, max_size=16),
    seed=st.integers(0, 99),
)
def test_a_mixed_call_is_its_two_phases_as_calls_of_their_own(policy, phases, rows, seed):
    """The oracle: the rows of the phase alone in a call, on the devices that they are on in the mixed one."""
    new = [is_new for is_new, _ in rows]
    lengths = [1 if is_new else length for is_new, length in rows]
    devices = tuple(row % 2 for row in range(len(rows)))
    whole = said(sum(lengths), seed)
    mixed = step_of(policy, packed(lengths, new), whole, phases, devices, 2)
    acting = [row for row, is_new in enumerate(new) if is_new == (phases == "decode")]
    acts_T = torch.tensor([row in acting for row, length in enumerate(lengths) for _ in range(length)])
    assert torch.equal(mixed.kept_TE[~acts_T], mixed.chosen_TE[~acts_T])
    if not acting:
        assert not mixed.applied
        return
    part = Routing(whole.logits_TE[acts_T], whole.weight_TK[acts_T], whole.index_TK[acts_T])
    own = packed([lengths[row] for row in acting], [new[row] for row in acting])
    alone = step_of(policy, own, part, phases, tuple(devices[row] for row in acting), 2)
    assert alone.applied == mixed.applied
    assert torch.equal(mixed.kept_TE[acts_T], alone.kept_TE)


def test_both_phases_compete_where_the_policy_is_for_both():
    lengths, new = [12, 1, 1, 1, 1], [False, True, True, True, True]
    routing = said(16, 3)
    step = step_of(TokenDrop(gamma=0.5), packed(lengths, new), routing, "both")
    plain = step_of(TokenDrop(gamma=0.5), packed([16], [False]), routing, "both")
    assert step.applied
    assert torch.equal(step.kept_TE, plain.kept_TE)


@pytest.mark.parametrize("isolation", ["request", "strict"])
@pytest.mark.parametrize("min_tokens", [None, 9])
def test_neighbours_do_not_decide_whether_a_request_is_limited(isolation, min_tokens):
    """A short prompt is let pass, alone or not; min_tokens counts the request's own tokens."""
    policy = TokenDrop(gamma=0.25, isolation=isolation)
    for length in (2, 3, 4, 8, 9, 20):
        routing = said(length + 40, length)
        own = Routing(routing.logits_TE[:length], routing.weight_TK[:length], routing.index_TK[:length])
        alone = step_of(policy, packed([length], [False]), own, "both", (0,), 2, min_tokens)
        amid = step_of(policy, packed([length, 40], [False] * 2), routing, "both", (0, 0), 2, min_tokens)
        assert alone.applied == (length >= (min_tokens or NUM_EXPERTS // TOP_K))
        assert amid.applied
        lost = alone.kept_TE & ~amid.kept_TE[:length]
        assert not lost.any()
        if isolation == "strict":
            assert torch.equal(alone.kept_TE, amid.kept_TE[:length])


def test_packed_calls_tell_new_tokens_from_prompts():
    reader = CallReader(tiny_model("olmoe"), SpecialTokens(pad=-1, begin=(), end=(), image=()))

    def read(ends, places):
        given = {
            "input_ids": torch.ones(1, len(places), dtype=torch.long),
            "cu_seq_lens_q": torch.tensor(ends),
            "position_ids": torch.tensor([places]),
        }
        return reader.read((), given)

    mixed = read([0, 1, 4, 5], [6, 0, 1, 2, 3])
    assert not mixed.decode
    assert mixed.decode_T.tolist() == [True, False, False, False, True]
    assert read([0, 1, 4, 5], [0, 0, 1, 2, 0]).decode_T is None
    later = read([0, 1, 2, 2], [6, 3, 0, 0])  # an empty row and two places of padding
    assert later.decode
    assert later.decode_T is None
    assert not read([0, 1, 3], [4, 5, 6]).decode
