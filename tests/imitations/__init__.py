"""What UnGuidance is tried together with: imitations of other packs, a file for each kind, and ComfyUI's own nodes."""

from imitations import attention, caches, control_nets, guiders, host_nodes, networks, noise_levels
from imitations.parts import Part

IMITATIONS = [
    *attention.PARTS,
    *caches.PARTS,
    *guiders.PARTS,
    *noise_levels.PARTS,
    *networks.PARTS,
    *control_nets.PARTS,
]


def all_parts() -> list[Part]:
    """A part for each of ComfyUI's nodes that can apply to the embedded model, and the imitations."""
    host_nodes.load()
    return [*host_nodes.parts(), *IMITATIONS]
