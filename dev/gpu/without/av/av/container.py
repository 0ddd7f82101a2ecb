"""The name that ComfyUI imports from here."""


class InputContainer:
    """Never made."""
