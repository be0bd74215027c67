"""VLMEvalKit: its model `evenmoe` for any benchmark it has, the bundled scenes as one, and whole evaluations in it."""

from evenmoe.evaluation.vision.vlmevalkit.registering import register
from evenmoe.evaluation.vision.vlmevalkit.run import run_vlmevalkit
from evenmoe.evaluation.vision.vlmevalkit.tsv import write_tsv

__all__ = ["register", "run_vlmevalkit", "write_tsv"]
