"""In PyAV's place where it is not installed: ComfyUI imports it when it starts, and uses it for video and sound."""


def __getattr__(name):
    raise AttributeError(f"av.{name} is PyAV's, which is not installed here: there is no video and no sound.")
