"""Tiny random models of every supported architecture, and inputs for them. No download, no network."""

from evenmoe.models.tiny.build import is_installed, tiny_config, tiny_model
from evenmoe.models.tiny.inputs import IMAGE_FORMATS, tiny_inputs
from evenmoe.models.tiny.table import TINY_CONFIGS

__all__ = ["IMAGE_FORMATS", "TINY_CONFIGS", "is_installed", "tiny_config", "tiny_inputs", "tiny_model"]
