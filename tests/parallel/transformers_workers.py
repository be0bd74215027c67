"""What the ranks of the test of transformers' own expert parallelism run."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

import evenmoe
from evenmoe.models.tiny import tiny_inputs
from evenmoe.parallel import shard
from evenmoe.routing import TokenDrop


def under_their_parallelism(group, progress, folder, model_type, settings):
    """For each setting of DistributedConfig: the difference to one process, what was dropped, and our refusal."""
    from transformers.distributed import DistributedConfig

    logging.set_verbosity_error()
    inputs = tiny_inputs(model_type, 4, 12, seed=3)
    whole = AutoModelForCausalLM.from_pretrained(folder).eval()
    found = []
    for options in settings:
        theirs = AutoModelForCausalLM.from_pretrained(
            folder, distributed_config=DistributedConfig(ep_size=2, **options)
        ).eval()
        own = slice(None)
        if "fsdp_size" in options:  # rows of its own on each rank
            own = slice(2 * group.rank, 2 * group.rank + 2)
        given = {name: value[own] for name, value in inputs.items()}
        runs = []
        for model in (whole, theirs):
            with evenmoe.attach(model, TokenDrop(gamma=1.0)) as attached, torch.no_grad():
                runs.append((model(**given).logits, attached.loads))
        (expected, expected_loads), (actual, loads) = runs
        try:
            shard(theirs, group)
            refusal = ""
        except evenmoe.errors.UnsupportedModelError as error:
            refusal = str(error)
        found.append(
            {
                "difference": float((actual - expected).abs().max() / expected.abs().max()),
                "kept": loads.total.after_LE.tolist(),
                "kept_alone": expected_loads.total.after_LE.tolist(),
                "drop_rate": loads.drop_rate,
                "refusal": refusal,
            }
        )
    return found
