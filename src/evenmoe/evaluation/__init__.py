"""Quality under a routing policy: held-out text, next-token accuracy, sweeps over policies."""
