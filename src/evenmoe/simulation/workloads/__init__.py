"""What the simulator serves: arrivals, lengths and loads of requests."""
