"""In PyAV's place where it is not installed: ComfyUI imports it when it starts, and uses it for video and sound alone.

Any module of it can be imported, and any class from it, since each version of ComfyUI imports others. What is asked of
`av` itself is an ImportError, as torchvision and others expect it where PyAV is not installed.
"""

import importlib.abc
import importlib.machinery
import sys


class AnyModule(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds and loads every `av.x`."""

    def find_spec(self, name, path=None, target=None):
        """A package for each of these names."""
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.startswith("av.") else None

    def exec_module(self, module):
        """Let it have every class."""
        module.__getattr__ = any_class


def any_class(name):
    """A class of that name, of which nothing is ever made."""
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (), {})


sys.meta_path.append(AnyModule())


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    raise ImportError(f"av.{name} is PyAV's, which is not installed here: there is no video and no sound.")
