"""evenmoe inside a real engine, and under real load."""
