"""Training a concept LoRA (paper section 3.1)."""
