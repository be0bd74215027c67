"""What an MoE layer costs: shapes, machines (measured or from a datasheet), and predicted layer times.

numpy only, but for `calibrate`, which measures a machine.
"""

from evenmoe.costs.machine import Machine, machine_names, read_machine
from evenmoe.costs.predict import LAYER_PHASES, LayerPrediction, predict_layer
from evenmoe.costs.shape import DTYPES, SHAPES, Dtype, LayerShape, read_shape

__all__ = [
    "DTYPES",
    "LAYER_PHASES",
    "SHAPES",
    "Dtype",
    "LayerPrediction",
    "LayerShape",
    "Machine",
    "machine_names",
    "predict_layer",
    "read_machine",
    "read_shape",
]
