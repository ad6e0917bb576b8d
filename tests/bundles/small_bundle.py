"""A bundle of the catalog with a network small enough for seconds on a CPU, and start weights for it."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from bundle_helpers import BRAIN, ROOT

from medmixers import create_network
from medmixers.bundles.catalog import BUNDLES
from medmixers.bundles.render.bundle import render_bundle

NAME = "brain_tissue_segmentation_small"
OPTIONS = {"mixer": "grouped_conv", "kernel_size": 3, "stem_stride": 2, "depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}


def write_small_bundle(folder: Path, **changes: Any) -> Path:
    """Its folder, below ``folder``; ``changes`` of its row."""
    row = replace(BUNDLES[BRAIN], **{"network_options": OPTIONS, "roi_size": (16, 16, 16), "label": "small", **changes})
    licence = (ROOT / "LICENSE").read_text()
    for path, text in render_bundle(row, package_version=version("medmixers"), licence=licence).items():
        target = folder / row.name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return folder / row.name


def write_small_bundle_with_weights(folder: Path, *, out_channels: int = 3, **changes: Any) -> Path:
    """The same with :func:`start_weights` as models/model.pt."""
    bundle = write_small_bundle(folder, **changes)
    (bundle / "models").mkdir()
    torch.save(start_weights(out_channels), bundle / "models" / "model.pt")
    return bundle


def start_weights(out_channels: int = 3) -> dict[str, torch.Tensor]:
    """The state dict of the bundle's network, from a fixed seed."""
    torch.manual_seed(0)
    options = {"layer_scale_init": 1.0, "drop_path_rate": 0.0, **OPTIONS, "out_channels": out_channels}
    network = create_network("metaformer_segformer_s12", spatial_dims=3, in_channels=1, **options)
    return network.state_dict()
