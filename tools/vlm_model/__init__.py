"""The recipe of the bundled vision-language model: `python -m tools.vlm_model --work DIR --out DIR`."""
