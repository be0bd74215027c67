"""The recipe of the bundled text model: `python -m tools.text_model --work DIR --out DIR`."""
