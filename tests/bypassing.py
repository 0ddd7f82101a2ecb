"""Something that replaces the layers of a MODEL, as other packs do."""


def bypass(model, named: str = ""):
    """A wrapper for APPLY_MODEL: what hangs on the forwards of layers with `named` in their names is passed by."""

    def around_forward(executor, *args, **kwargs):
        swapped = [it for name, it in model.model.named_modules() if named in name and "forward" in vars(it)]
        forwards = [vars(m).pop("forward") for m in swapped]
        try:
            return executor(*args, **kwargs)
        finally:
            for module, forward in zip(swapped, forwards, strict=True):
                module.forward = forward

    return around_forward
