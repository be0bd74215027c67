"""ExpertAwareScheduler in a real engine: vLLM's own answers, loads compared step for step, bad loads refused."""

import random
from pathlib import Path

import pytest

pytest.importorskip("vllm")

from evenmoe.serving.admission import Shape
from evenmoe.serving.admission.workload import write_prior
from evenmoe.serving.observation.loads_file import read_loads_snapshot
from evenmoe.serving.observation.scheduling_file import read_scheduling_snapshot
from evenmoe.serving.observation.spool import Spool
from evenmoe.serving.vllm.scheduling_checks import CLIENT_LOADS, SCHEDULER
from tests.serve.in_process import answers, llm

pytestmark = pytest.mark.serve

SMALL = {
    "max_num_seqs": 3,
    "max_num_batched_tokens": 96,
    "enable_prefix_caching": True,
    "block_size": 32,
}
"""Prompts are cut, and share prefixes that are cached."""


def prompts():
    rng = random.Random(0)
    shared = [rng.randrange(128) for _ in range(64)]
    return [
        shared[: 32 * rng.choice([0, 0, 1, 2])] + [rng.randrange(128) for _ in range(rng.randrange(2, 90))]
        for _ in range(24)
    ]


def alike():
    """Prompts of one length, so that only their loads tell them apart."""
    rng = random.Random(1)
    return [[rng.randrange(128) for _ in range(40)] for _ in range(6)]


def scheduler_of(engine):
    return engine.llm_engine.engine_core.engine_core.scheduler


@pytest.fixture(scope="module")
def stock(tiny_folder):
    with llm(tiny_folder("olmoe"), **SMALL) as engine:
        return answers(engine, [*prompts(), *alike()], 12)


def shape_of(folder: Path) -> Shape:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    return Shape(
        num_layers=config.num_hidden_layers,
        num_experts=config.num_experts,
        top_k=config.num_experts_per_tok,
    )


def test_with_a_prior_the_answers_are_vllms_and_every_load_is_compared(
    tiny_folder, stock, tmp_path, monkeypatch
):
    folder = tiny_folder("olmoe")
    monkeypatch.setattr("evenmoe.serving.vllm.scheduler.LOOK_EVERY_S", 0.0)
    scheduling = {
        "strategy": "peak_excess",
        "predictor": "token-prior",
        "prior": write_prior(shape_of(folder), tmp_path),
    }
    evenmoe = {"scheduling": scheduling, "metrics": {"least_requests": 2, "interval_s": 1e-6}}
    with llm(folder, evenmoe, scheduler_cls=SCHEDULER, **SMALL) as engine:
        scheduler = scheduler_of(engine)
        admitted = []
        take = scheduler.admission.admitted
        monkeypatch.setattr(
            scheduler.admission, "admitted", lambda keys: (admitted.extend(keys), take(keys))[1]
        )
        assert answers(engine, [*prompts(), *alike()], 12) == stock
        assert len(admitted) == len(set(admitted)) == len(stock)
        assert admitted != sorted(admitted, key=lambda key: int(key.split("-")[0])), "not in order of arrival"
        told = read_scheduling_snapshot(Spool.inherited())
        counted = read_loads_snapshot(Spool.inherited())
    assert (told.num_waiting, told.num_running, told.num_admitted) == (0, 0, len(stock))
    assert told.num_feedback > 3
    assert told.num_unaligned == 0
    assert set(told.prediction_error) == {"plain", "corrected", "mean"}
    assert 0 < counted.num_tokens <= sum(map(len, [*prompts(), *alike()])) + 12 * len(stock)


def test_loads_of_clients_order_requests_and_bad_ones_are_refused(tiny_folder, stock):
    from vllm import SamplingParams
    from vllm.exceptions import VLLMValidationError

    folder = tiny_folder("olmoe")
    shape = shape_of(folder)
    evenmoe = {"scheduling": {"strategy": "greedy_variance", "predictor": "client"}}
    first = ([1.0] + [0.0] * (shape.num_experts - 1)) * shape.num_layers
    last = first[::-1]

    def sampling(load):
        return SamplingParams(
            temperature=0,
            max_tokens=12,
            ignore_eos=True,
            detokenize=False,
            extra_args={"expert_load": load},
        )

    with llm(
        folder,
        evenmoe,
        scheduler_cls=SCHEDULER,
        logits_processors=[CLIENT_LOADS],
        **SMALL | {"max_num_seqs": 2},
    ) as engine:
        for bad, named in (
            (first[:-1], f"'{len(first) - 1} numbers' is not allowed: {len(first)} numbers"),
            ([-1.0, *first[1:]], r"expert_load\[0\] = -1.0 is not allowed: a finite number of at least 0"),
            ([*first[:-1], float("nan")], rf"expert_load\[{len(first) - 1}\] = nan"),
            ("much", "expert_load = 'much' is not allowed: a list of numbers"),
        ):
            with pytest.raises(VLLMValidationError, match=named):
                engine.generate([{"prompt_token_ids": [1, 2, 3]}], sampling(bad), use_tqdm=False)
        admitted = []
        take = scheduler_of(engine).admission.admitted
        scheduler_of(engine).admission.admitted = lambda keys: (admitted.append(list(keys)), take(keys))[1]
        outputs = engine.generate(
            [{"prompt_token_ids": ids} for ids in alike()],
            [sampling(load) for load in (first, first, first, last, last, last)],
            use_tqdm=False,
        )
        assert scheduler_of(engine).num_ignored_loads == 0
    names = sorted((key for step in admitted for key in step), key=lambda key: int(key.split("-")[0]))
    order = [names.index(key) for step in admitted for key in step]
    assert order[:2] == [0, 3], "the oldest joins an empty engine, and beside it one that uses other experts"
    assert [list(output.outputs[0].token_ids) for output in outputs] == stock[-6:]
