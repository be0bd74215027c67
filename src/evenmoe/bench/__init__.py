"""Timing of one MoE layer: routing drawn from loads, phases, real ranks, emulated devices, predictions."""
