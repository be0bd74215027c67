"""The example's output: golden, and what it must say whatever the checkpoint."""

import re
import runpy
from pathlib import Path

import pytest

from evenmoe.models.bundled import bundled_names, bundled_tokenizer, load_bundled
from tests.models.attach_reference import tiny_model

EXAMPLE = Path(__file__).parents[2] / "examples" / "noisy_neighbour.py"
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def rows(output):
    return {line.split()[0]: [float(n) for n in line.split()[1:]] for line in output.splitlines()[5:]}


class Bytes:
    """A tokenizer of bytes, for a model of 128 tokens."""

    def __call__(self, text):
        self.input_ids = [10 + byte % 90 for byte in text.encode()]
        return self


def test_isolation_protects_whatever_the_model():
    example = runpy.run_path(str(EXAMPLE))
    found = rows(example["main"](tiny_model("olmoe"), Bytes()))
    assert found["batch"][0] > 0
    assert found["batch"][1] > 0
    assert found["request"][0] == 0
    assert found["strict"] == [0, 0, 0]


@pytest.mark.skipif("text" not in bundled_names(), reason="the bundled model is not built")
def test_the_output_is_as_published():
    """Counts may move a little with the machine's arithmetic; the words and the zeros may not."""
    output = runpy.run_path(str(EXAMPLE))["main"](load_bundled("text"), bundled_tokenizer("text"))
    published = EXAMPLE.with_suffix(".out").read_text().rstrip("\n")
    assert NUMBER.sub("#", output).split() == NUMBER.sub("#", published).split()
    for now, then in zip(NUMBER.findall(output), NUMBER.findall(published), strict=True):
        assert float(now) == pytest.approx(float(then), rel=0.05, abs=3 if float(then) else 0)
    found = rows(output)
    assert found["batch"][0] > 0
    assert found["request"][0] == 0
    assert found["strict"] == [0, 0, 0]
