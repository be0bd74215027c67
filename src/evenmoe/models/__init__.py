"""Mixture-of-Experts models: attach policies to them, load them, and the models that ship."""
