"""As much of torchaudio's module as ComfyUI imports."""
