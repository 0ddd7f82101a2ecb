"""UnGuidance (paper section 3.3): steering a sampling run away from a concept."""
