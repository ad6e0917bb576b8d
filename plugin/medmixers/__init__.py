"""medmixers: which token mixer, on my data? MetaFormer networks for nnU-Net v2 and MONAI.

Importing this package imports neither torch nor MONAI; :func:`create_network` does, when it is called.
"""

from medmixers.factory import create_network, list_mixers, list_networks

__all__ = ["create_network", "list_mixers", "list_networks"]
