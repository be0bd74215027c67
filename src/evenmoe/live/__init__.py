"""Live: the batch scheduler drives a real model, in real time, and the simulator's forecast is held against it.

torch. Nothing is imported here: take `run_live` from `evenmoe.live.study`.
"""
