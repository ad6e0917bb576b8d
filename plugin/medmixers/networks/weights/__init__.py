"""Pretrained weights: the checkpoints of timm, of the papers' authors and of this package, for networks in 2D and 3D.

The steps: read (``sources``), recognise and rename (``formats``), check what the keys do not tell (``requirements``),
adapt the shapes (``fit``), load and report (``load``). ``saved_network`` derives a network from a checkpoint.
"""

from medmixers.networks.weights.load import LoadReport, load_weights
from medmixers.networks.weights.saved_network import SavedNetwork, saved_network
from medmixers.networks.weights.sources import check_source, read_source

__all__ = ["LoadReport", "SavedNetwork", "check_source", "load_weights", "read_source", "saved_network"]
