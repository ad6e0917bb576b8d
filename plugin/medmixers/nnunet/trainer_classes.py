"""Trainers for ``nnUNetv2_train -tr``, by name.

They are defined here and not in trainers/, so that they can be pickled: after its look-up nnU-Net drops the
modules of the folder that ``nnUNet_extTrainer`` names from ``sys.modules``.
"""

from __future__ import annotations

from types import MappingProxyType

from medmixers.mixers import TOKEN_MIXERS
from medmixers.mixers.build import mixer_option_names
from medmixers.nnunet.trainer import nnUNetTrainerMedMixers


class nnUNetTrainerTokenUNet(nnUNetTrainerMedMixers):
    """Token-UNet with its Transformer."""

    network_name = "token_unet"
    recipe = "tshimanga2026"


class nnUNetTrainerTokenUNetNoTransformer(nnUNetTrainerMedMixers):
    """Token-UNet without the Transformer: TokenLearner and TokenFuser only."""

    network_name = "token_unet_no_transformer"
    recipe = "tshimanga2026"


class nnUNetTrainerUNetStarStar(nnUNetTrainerMedMixers):
    """UNet**, the convolutional part of Token-UNet."""

    network_name = "unet_star_star"
    recipe = "tshimanga2026"


def metaformer_trainer_name(mixer: str) -> str:
    """``grouped_conv`` -> ``nnUNetTrainerMetaFormerGroupedConv``, ``spatial_fc`` -> ``...SpatialFC``."""
    return "nnUNetTrainerMetaFormer" + mixer.replace("_", " ").title().replace(" ", "").replace("Fc", "FC")


def _metaformer_trainer(mixer: str) -> type[nnUNetTrainerMedMixers]:
    """MetaFormer S12 with one token mixer in all stages and the SegFormer decoder."""
    # Global attention takes a feature size too, but for the positional embedding only, which is off here.
    sized = "feature_size" in mixer_option_names(mixer) and mixer != "global_attention"
    attributes = {
        "__module__": __name__,  # where pickle looks for it
        "__doc__": f"MetaFormer S12 with {mixer.replace('_', ' ')} as token mixer, SegFormer decoder.",
        "network_name": "metaformer_segformer_s12",
        "network_options": MappingProxyType({"mixer": mixer}),
        "patch_size_option": "input_size" if sized else None,
        "recipe": "keuth2025_segmentation",
    }
    return type(metaformer_trainer_name(mixer), (nnUNetTrainerMedMixers,), attributes)


_TOKEN_UNETS: tuple[type[nnUNetTrainerMedMixers], ...] = (
    nnUNetTrainerTokenUNet,
    nnUNetTrainerTokenUNetNoTransformer,
    nnUNetTrainerUNetStarStar,
)
# Every trainer by its class name; a mixer that joins TOKEN_MIXERS gets its trainer here.
TRAINERS: dict[str, type[nnUNetTrainerMedMixers]] = {
    trainer.__name__: trainer for trainer in (*_TOKEN_UNETS, *map(_metaformer_trainer, TOKEN_MIXERS))
}
globals().update(TRAINERS)
