"""Many runs: grids over processes, CAPS's study, the steady state, a trace, and what to make of them."""
