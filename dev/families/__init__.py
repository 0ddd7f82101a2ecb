"""The model families, each as a tiny model of the host's own classes: for tests and `python dev bench families`."""
