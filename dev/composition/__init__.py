"""UnGuidance with what else hangs on a MODEL, in a prompt or around a sampler: every combination, and what is right.

`host_nodes` finds what the host ships by reading its list of nodes, `attention`, `caches`, `guiders` and `runs` imitate
public packs, and `matrix` tries each and says what came of it.
"""
