"""Networks of other libraries by name: ``monai:SwinUNETR``, ``nnunet:PlainConvUNet``, ``timm:resnet50``.

:class:`LibraryRegistry` is the one rule for such names; variants.py makes a row of each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from medmixers.registry import Registry, UnknownNameError, valid_names

T = TypeVar("T")

MONAI_SEGMENTATION: Mapping[str, Mapping[str, Any]] = {  # name -> arguments that MONAI has no default for
    "AttentionUnet": {"channels": (32, 64, 128, 256, 320), "strides": (2, 2, 2, 2)},
    "BasicUNet": {},
    "BasicUNetPlusPlus": {},
    "DynUNet": {"kernel_size": (3,) * 5, "strides": (1, 2, 2, 2, 2), "upsample_kernel_size": (2,) * 4},
    "FlexibleUNet": {"backbone": "efficientnet-b0"},
    "HighResNet": {},
    "MedNeXt": {},
    "SegResNet": {},
    "SegResNetDS": {},
    "SwinUNETR": {},
    "UNETR": {},
    "UNet": {"channels": (32, 64, 128, 256, 320), "strides": (2, 2, 2, 2)},
    "VNet": {},
}
MONAI_CLASSIFICATION: Mapping[str, Mapping[str, Any]] = {
    **{f"DenseNet{depth}": {} for depth in (121, 169, 201, 264)},
    "EfficientNetBN": {"model_name": "efficientnet-b0"},
    **{f"resnet{depth}": {} for depth in (10, 18, 34, 50, 101, 152, 200)},
    **{name: {} for name in ("SENet154", "SEResNet50", "SEResNet101", "SEResNet152", "SEResNext50", "SEResNext101")},
    "ViT": {"patch_size": 16},
}
MONAI_SIZE_BOUND, EINOPS = ("UNETR", "ViT"), ("SwinUNETR", "UNETR", "ViT")
NNUNET = {  # of dynamic_network_architectures, whose networks nnU-Net's plans name
    "PlainConvUNet": "nnU-Net's U-Net",
    "ResidualEncoderUNet": "nnU-Net's U-Net with a residual encoder (ResEnc)",
    "ResidualUNet": "U-Net with a residual encoder and decoder",
}
NNUNET_BLOCKS = "simple_conv_blocks.StackedConvBlocks", "residual.StackedResidualBlocks"


@cache
def timm_names() -> frozenset[str]:
    """Names of timm's networks, read from its files: importing it would load torch."""
    spec = find_spec("timm")
    files = Path(str(spec.origin)).parent.joinpath("models").glob("*.py") if spec else ()
    texts = [path.read_text(encoding="utf-8") for path in files]
    return frozenset(name for text in texts for name in re.findall(r"^@register_model\s*\ndef (\w+)\(", text, re.M))


def split_name(name: object) -> tuple[str, str]:
    """Library and name: ("monai", "SwinUNETR") of "monai:SwinUNETR", ("", "token_unet") of "token_unet"."""
    library, _, own = str(name).rpartition(":")
    return library, own


def packages_of(name: str, options: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Packages that a network needs besides MONAI's own requirements.

    Args:
        name: of the network.
        options: of the network; "timm:NAME" as a value names a part of it.
    """
    library, own = split_name(name)
    if any(str(value).startswith("timm:") for value in (options or {}).values()):
        return tuple(sorted({"timm", *packages_of(name)}))
    if library == "monai":
        return ("einops",) if own in EINOPS else ()
    return {"nnunet": ("dynamic_network_architectures",), "timm": ("timm",)}.get(library, ())


class Library(NamedTuple):
    """Another library's part of a :class:`LibraryRegistry`.

    Args:
        names: gives the names that the library has.
        item: name -> object of the registry.
        listing: the command that lists the names.
    """

    names: Callable[[], Collection[str]]
    item: Callable[[str], Any]
    listing: str


class LibraryRegistry(Registry[T]):
    """A registry that also finds what other libraries have, by ``LIBRARY:NAME``. It does not list those names."""

    def __init__(self, kind: str, *, listing: str = "") -> None:
        super().__init__(kind, listing=listing)
        self.libraries: dict[str, Library] = {}

    def __getitem__(self, name: str) -> T:
        library, own = split_name(name)
        if not isinstance(name, str) or name in self._items:
            return super().__getitem__(name)
        if library in self.libraries and own in self.libraries[library].names():
            return self.libraries[library].item(own)
        raise UnknownNameError(f"unknown {self.kind} {name!r}; valid: {self._valid(name)}")

    def _valid(self, wrong: str) -> str:
        """The names nearest to a wrong one, of its library where it names one."""
        library, own = split_name(wrong)
        if library in self.libraries:
            names = [f"{library}:{name}" for name in self.libraries[library].names()]
            return valid_names(wrong, names, listing=self.libraries[library].listing)
        if library:
            return f"{', '.join(f'{each}:NAME' for each in sorted(self.libraries))}, or a name of '{self.listing}'"
        peers = [f"{each}:{own}" for each, row in self.libraries.items() if own in row.names()]
        return ", ".join([*peers, valid_names(wrong, self._items, listing=self.listing)])
