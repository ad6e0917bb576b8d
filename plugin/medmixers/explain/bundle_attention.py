"""Token attention of a MONAI Bundle of this package, on the voxels of the image files."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medmixers.checkpoints import read_weights
from medmixers.errors import InputError
from medmixers.explain.token_attention import attention_on_image, record_token_attention
from medmixers.files import refuse_overwriting_inputs, written_whole


class BundleAttention:
    """The network and the transforms of a bundle's configs/inference.json.

    The configs of a bundle are code that runs: load bundles of people you trust.

    Args:
        bundle: its folder.
        checkpoint: file of the weights; None takes models/model.pt of the bundle.
        device: as torch names it.

    Raises:
        MissingFileError: there are no weights.
        InputError: weights of another network, or a bundle that was made of an nnU-Net model.
    """

    def __init__(self, bundle: Path, *, checkpoint: str | None = None, device: str = "cpu") -> None:
        from monai.bundle import ConfigParser

        if (bundle / "configs" / "nnunet").is_dir():
            raise InputError(f"{bundle} was made of an nnU-Net model: explain that model")
        parser = ConfigParser()
        parser.read_config(str(bundle / "configs" / "inference.json"))
        parser["bundle_root"], parser["device"] = str(bundle), f"$torch.device({device!r})"
        paths = sys.path[:]
        try:
            self.network: nn.Module = parser.get_parsed_content("network").eval()
            self.preprocessing: Any = parser.get_parsed_content("preprocessing")
        finally:
            sys.path[:] = paths  # the config has put the bundle's folder on the path
        self.network.load_state_dict(read_weights(checkpoint or str(bundle / "models" / "model.pt"), self.network))
        self.device = device

    @torch.inference_mode()
    def __call__(self, images: Sequence[Path], *, out: Path | None = None) -> NDArray[np.float32]:
        """Maps of one case, (N, X, Y, Z) in multiples of uniform attention, on the voxels of its files.

        The whole case goes through the network at once: attention is a softmax over all positions.

        Args:
            images: one NIfTI file per channel, or one with all.
            out: 4D NIfTI file for the maps, its last axis the tokens; None writes no file.
        """
        from monai.data import MetaTensor
        from monai.transforms import Invertd

        if out is not None:
            refuse_overwriting_inputs(out, images)
        item = self.preprocessing({"image": [str(path) for path in images] if len(images) > 1 else str(images[0])})
        image = item["image"]
        with record_token_attention(self.network) as recorded:
            self.network(image[None].as_tensor().to(self.device))
        stride = getattr(self.network, "stride", 8)
        maps = attention_on_image(recorded[-1], image.shape[1:], stride=stride)[0].cpu()
        item["maps"] = MetaTensor(maps, meta=image.meta, applied_operations=image.applied_operations)
        undo = Invertd(keys="maps", transform=self.preprocessing, orig_keys="image", nearest_interp=False)
        voxels = np.asarray(undo(item)["maps"], np.float32)
        if out is not None:
            with written_whole(out) as partial:
                nib.save(nib.Nifti1Image(np.moveaxis(voxels, 0, -1), nib.load(images[0]).affine), partial)
        return voxels


def bundle_channels(bundle: Path) -> int:
    """Number of channels that the network of a bundle takes, by its metadata."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text("utf-8"))
    return int(metadata["network_data_format"]["inputs"]["image"]["num_channels"])
