"""A pytest plugin, in each of its processes: tests that need a server, with its page and its queue, are not run."""

SERVER = "server"  # the fixture that starts one


def pytest_collection_modifyitems(config, items) -> None:
    """A hook of pytest: called with all tests that were found."""
    config.hook.pytest_deselected(items=[it for it in items if SERVER in it.fixturenames])
    items[:] = [it for it in items if SERVER not in it.fixturenames]
