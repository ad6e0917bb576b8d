"""Cases of a MONAI Bundle of this package, on the voxels of the image files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from torch import Tensor, nn

from medmixers.checkpoints import read_weights
from medmixers.errors import InputError
from medmixers.explain.case import Case, check_voxel
from medmixers.explain.source import read_source


def parsed_bundle(bundle: Path, names: Sequence[str], *, device: str) -> tuple[Any, list[Any]]:
    """MONAI's parser of a bundle's configs/inference.json, and the objects of these names in it."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser["bundle_root"], parser["device"] = str(bundle), f"$torch.device({device!r})"
    paths = sys.path[:]
    try:
        return parser, [parser.get_parsed_content(name) for name in names]
    finally:
        sys.path[:] = paths  # the config has put the bundle's folder on the path


class BundleModel:
    """The network and the transforms of a bundle's configs/inference.json.

    The configs of a bundle are code that runs: load bundles of people you trust.

    Args:
        bundle: its folder.
        checkpoint: file of the weights; None takes models/model.pt of the bundle.
        device: as torch names it.

    Raises:
        MissingFileError: there are no weights.
        InputError: weights of another network.
    """

    def __init__(self, bundle: Path, *, checkpoint: str | None = None, device: str = "cpu") -> None:
        parser, (network, self.preprocessing) = parsed_bundle(bundle, ("network", "preprocessing"), device=device)
        self.network: nn.Module = network.eval()
        self.network.load_state_dict(read_weights(checkpoint or str(bundle / "models" / "model.pt"), self.network))
        self.window: Sequence[int] = parser.get("roi_size", parser.get("image_size", ()))
        self.device = device

    def case(self, images: Sequence[Path]) -> BundleCase:
        """A case, of one file per channel, or a picture with all of them."""
        item = self.preprocessing({"image": [str(path) for path in images] if len(images) > 1 else str(images[0])})
        image = item["image"][None].as_tensor().to(self.device)
        return BundleCase(self, item, image, images[0])


class BundleCase(Case):
    """A case of a bundle: MONAI's transforms take it to the network and back."""

    def __init__(self, model: BundleModel, item: dict[str, Any], image: Tensor, file: Path) -> None:
        spatial, self.source = image.shape[2:], read_source(file)
        spacing = () if self.source.is_picture else item["image"].pixdim.tolist()[: len(spatial)]
        super().__init__(model.network, image, model.window or spatial, spacing)
        self.preprocessing, self.item = model.preprocessing, item

    def place(self, voxel: Sequence[int]) -> tuple[int, tuple[int, ...]]:
        check_voxel(voxel, self.source.shape)
        point = self.source.affine @ [*voxel, *[0] * (3 - len(voxel)), 1]
        sizes = self.image.shape[2:]
        place = np.rint(np.linalg.solve(self.item["image"].affine.numpy(), point)).astype(int)[: len(sizes)]
        if self.source.is_picture:  # the centre of a pixel may be rounded beyond the last one
            place = place.clip(0, np.array(sizes) - 1)
        if not all(0 <= p < size for p, size in zip(place, sizes, strict=True)):
            raise InputError(f"voxel {','.join(map(str, voxel))} is in the border that the preprocessing crops away")
        return 0, tuple(map(int, place))

    def on_file(self, maps: Tensor) -> nib.Nifti1Image:
        from monai.data import MetaTensor
        from monai.transforms import Invertd

        image = self.item["image"]
        item = {**self.item}
        item["maps"] = MetaTensor(maps[0].cpu(), meta=image.meta, applied_operations=image.applied_operations)
        undo = Invertd(keys="maps", transform=self.preprocessing, orig_keys="image", nearest_interp=False)
        voxels = np.moveaxis(np.asarray(undo(item)["maps"], np.float32), 0, -1)
        return nib.Nifti1Image(voxels.reshape(*self.source.grey.shape, -1), self.source.affine)
