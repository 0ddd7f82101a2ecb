"""UnGuide's method (arXiv 2508.05755), independent of the nodes; only the package `host` depends on ComfyUI."""
