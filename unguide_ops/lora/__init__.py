"""Low-rank adaptation: low-rank pairs, the adapter that applies them to a model, and the layers they change."""
