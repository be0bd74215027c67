"""A folder on the engine's PYTHONPATH; its `sitecustomize` runs as each of the engine's processes starts."""
