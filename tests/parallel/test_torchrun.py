"""Scripts started with torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parallel.test_group import check_collectives

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow

SCRIPT = """
import json, os, sys
from pathlib import Path
from evenmoe.parallel import init
from tests.parallel import workers

folder, fault = Path(sys.argv[1]), sys.argv[2]
with init(timeout_s=20.0) as group:
    (folder / f"{group.rank}.pid").write_text(str(os.getpid()))
    found = workers.steps(group, 1, fault) if fault else workers.collectives(group)
    (folder / f"{group.rank}.json").write_text(json.dumps(found))
with init(timeout_s=20.0) as group:
    group.barrier()
"""


def torchrun(folder: Path, fault: str) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, str(script), str(folder), fault],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def test_a_script_runs_and_may_open_a_group_twice(tmp_path):
    ended = torchrun(tmp_path, "")
    assert ended.returncode == 0, ended.stderr
    check_collectives([json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)])


def test_a_rank_that_dies_ends_them_all(tmp_path):
    ended = torchrun(tmp_path, "killed")
    assert ended.returncode == 1
    assert "Signal 9 (SIGKILL)" in ended.stderr
    assert "rank      : 1" in ended.stderr
    for rank in range(2):
        pid = int((tmp_path / f"{rank}.pid").read_text())
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
