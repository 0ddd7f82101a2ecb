"""The name that ComfyUI imports from here."""


class ColorRange:
    """Never made."""
