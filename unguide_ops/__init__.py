"""The method of UnGuide (arXiv 2508.05755): nothing here knows of node schemas, and only `host` knows ComfyUI."""
