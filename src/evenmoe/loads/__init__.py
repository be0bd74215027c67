"""Expert loads: what was routed, the metrics that say how even it was, and the files that keep it."""

from evenmoe.loads.expert_loads import ExpertLoads, LoadCounts, StepPeaks
from evenmoe.loads.files import (
    join_loads,
    pack_loads,
    read_loads,
    split_loads,
    unpack_loads,
    write_loads,
)
from evenmoe.loads.metrics import (
    coefficient_of_variation,
    device_load,
    drop_rate,
    gate_mass_kept,
    gini,
    peak_to_mean,
    ratio_of_sums,
    relative_work,
    straggler_factor,
)
from evenmoe.loads.summing import sum_counts, sum_loads

__all__ = [
    "ExpertLoads",
    "LoadCounts",
    "StepPeaks",
    "coefficient_of_variation",
    "device_load",
    "drop_rate",
    "gate_mass_kept",
    "gini",
    "join_loads",
    "pack_loads",
    "peak_to_mean",
    "ratio_of_sums",
    "read_loads",
    "relative_work",
    "split_loads",
    "straggler_factor",
    "sum_counts",
    "sum_loads",
    "unpack_loads",
    "write_loads",
]
