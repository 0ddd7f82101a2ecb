"""Something that replaces the layers of a MODEL, as other packs do."""


def bypass(model):
    """A wrapper for APPLY_MODEL: what hangs on the layers' forwards is passed by."""

    def around_forward(executor, *args, **kwargs):
        swapped = [m for m in model.model.modules() if "forward" in vars(m)]
        forwards = [vars(m).pop("forward") for m in swapped]
        try:
            return executor(*args, **kwargs)
        finally:
            for module, forward in zip(swapped, forwards, strict=True):
                module.forward = forward

    return around_forward
