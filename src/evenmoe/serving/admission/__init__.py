"""Admission: who of the waiting joins an engine's next step. Knows no engine: numpy and evenmoe's own parts only."""

from evenmoe.serving.admission.admission import Admission
from evenmoe.serving.admission.client_loads import client_load
from evenmoe.serving.admission.shape import Shape

__all__ = ["Admission", "Shape", "client_load"]
