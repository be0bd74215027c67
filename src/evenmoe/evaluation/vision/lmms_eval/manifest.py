"""What lmms-eval finds under the entry point `lmms_eval.models`: the name of our model, and where its class is."""

from lmms_eval.models.registry_v2 import ModelManifest

MANIFEST = ModelManifest(
    model_id="evenmoe", simple_class_path="evenmoe.evaluation.vision.lmms_eval.model.EvenMoELmms"
)
