"""The name that ComfyUI imports from here."""


class SubtitleStream:
    """Never made."""
