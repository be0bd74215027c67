"""What a server tells of its experts: sums over many requests, from the engine's processes to its `/metrics`."""
