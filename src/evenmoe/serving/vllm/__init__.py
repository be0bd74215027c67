"""evenmoe inside vLLM, through its public registries. Pinned to the version that the extra `serve` names."""
