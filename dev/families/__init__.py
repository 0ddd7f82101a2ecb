"""The model families as models of random weights, of the host's own classes: for tests and benchmarks."""
