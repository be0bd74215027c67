"""The example's output, as torchrun gives it: golden, and what it must say whatever the checkpoint."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from evenmoe.models.bundled import bundled_names

EXAMPLE = Path(__file__).parents[2] / "examples" / "expert_parallel.py"
NUMBER = re.compile(r"\d+(?:\.\d+)?")


@pytest.mark.skipif("text" not in bundled_names(), reason="the bundled model is not built")
def test_the_output_under_torchrun_is_as_published():
    """Counts may move a little with the machine's arithmetic; the words may not."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(EXAMPLE),
    ]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert run.returncode == 0, run.stderr
    output, published = run.stdout.rstrip("\n"), EXAMPLE.with_suffix(".out").read_text().rstrip("\n")
    assert NUMBER.sub("#", output).split() == NUMBER.sub("#", published).split()
    for now, then in zip(NUMBER.findall(output), NUMBER.findall(published), strict=True):
        assert float(now) == pytest.approx(float(then), rel=0.05)
    rows = {line.split()[0]: line for line in output.splitlines()[-2:]}
    assert all(line.endswith("yes") for line in rows.values())
    sent = {name: sum(map(int, NUMBER.findall(line)[:2])) for name, line in rows.items()}
    run_there = {name: sum(map(int, NUMBER.findall(line)[2:4])) for name, line in rows.items()}
    assert sent == run_there
    assert sent["token_drop"] < sent["baseline"]
