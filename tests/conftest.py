"""Fixtures that several test folders share: a tiny random checkpoint with its tokenizer, and text files."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A console that is made with these keeps them, and workers of pytest-xdist set them.
os.environ.pop("COLUMNS", None)
os.environ.pop("LINES", None)

import sys
from pathlib import Path

import pytest
from hypothesis import settings

from evenmoe.cli.main import run

settings.register_profile("evenmoe", deadline=None)  # how long an example takes says how busy the machine is
settings.load_profile("evenmoe")

DOMAINS = {
    "numbers": " ".join(str(n * n) for n in range(4000)),
    "words": "the quick brown fox jumps over the lazy dog and runs away from it. " * 300,
}


@pytest.fixture
def evenmoe(monkeypatch, capsys):
    """Run a command in this process; gives (exit status, standard output, standard error)."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evenmoe", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.delenv("EVENMOE_TRACEBACK", raising=False)
        try:
            run()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def text_files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("texts")
    paths = []
    for domain, text in DOMAINS.items():
        path = folder / f"{domain}.txt"
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory, text_files) -> Path:
    """A random OLMoE of 2 layers and 8 experts, with routers sharp enough to be uneven, saved as a checkpoint."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import OlmoeConfig, OlmoeForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-olmoe")
    trained = ByteLevelBPETokenizer()
    trained.train([str(path) for path in text_files], vocab_size=320, special_tokens=["<eos>", "<pad>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, eos_token="<eos>", pad_token="<pad>"
    )
    tokenizer.save_pretrained(folder)
    config = OlmoeConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=256,
        pad_token_id=1,
        eos_token_id=0,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    model = OlmoeForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate.weight.mul_(20)
    model.save_pretrained(folder)
    return folder
