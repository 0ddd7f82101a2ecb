"""Stands in for torchaudio on a machine that has none: ComfyUI imports it for models of sound, which no part uses."""
