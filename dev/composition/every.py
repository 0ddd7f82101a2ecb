"""All parts."""

from __future__ import annotations

from dev.composition import attention, caches, guiders, host_nodes, runs
from dev.composition.parts import Part

IMITATIONS = [*attention.PARTS, *caches.PARTS, *guiders.PARTS, *runs.PARTS]


def parts() -> list[Part]:
    """The host's, by its own list, and the imitations."""
    host_nodes.load()
    return [*host_nodes.parts(), *IMITATIONS]
