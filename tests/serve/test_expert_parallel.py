"""Expert parallelism on CPUs, which kills stock vLLM: two ranks give the tokens of one."""

import pytest

pytest.importorskip("vllm")
pytestmark = pytest.mark.serve

from tests.serve.in_process import answers, llm  # noqa: E402
from tests.serve.test_routing import prompts_of  # noqa: E402

TWO_RANKS = {
    "tensor_parallel_size": 2,
    "enable_expert_parallel": True,
    "distributed_executor_backend": "mp",
}


@pytest.mark.parametrize("gamma", ["inf", 1.0])
def test_two_ranks_give_the_tokens_of_one(tiny_folder, monkeypatch, tmp_path, gamma):
    """The same steps on both: the scheduler is in this process, and all requests are there before the first step."""
    import os

    from evenmoe.serving.observation.loads_file import read_loads_snapshot
    from evenmoe.serving.observation.spool import ENVIRONMENT, Spool

    evenmoe = {
        "routing": {"gamma": gamma, "num_devices": 2, "phases": "both"},
        "metrics": {"least_requests": 1, "per_request_loads": True, "interval_s": 1e-9},
    }
    prompts, told, tokens = prompts_of(6, seed=5), [], []
    for ranks, options in enumerate(({}, TWO_RANKS), 1):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        monkeypatch.setenv(ENVIRONMENT, str(folder))
        monkeypatch.setenv(
            "VLLM_CPU_OMP_THREADS_BIND", "0" if ranks == 1 else f"0|{(os.cpu_count() or 1) - 1}"
        )
        with llm(tiny_folder("qwen2_moe"), evenmoe, **options) as engine:
            tokens.append(answers(engine, prompts))
            tokens.append(answers(engine, prompts[:1]))
        told.append(read_loads_snapshot(Spool(folder)))
    assert tokens[2:] == tokens[:2]
    one, two = told
    assert two.num_tokens == one.num_tokens > 200
    assert two.loads.total.before_LE.tolist() == one.loads.total.before_LE.tolist()
    assert two.loads.total.after_LE.tolist() == one.loads.total.after_LE.tolist()
    assert (two.loads.drop_rate > 0.05) == (gamma == 1.0)
