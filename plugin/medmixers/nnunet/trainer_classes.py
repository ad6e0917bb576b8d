"""Trainers for ``nnUNetv2_train -tr``, by name.

They are defined here and not in trainers/ so that they can be pickled. After its look-up nnU-Net removes the modules of
the folder that ``nnUNet_extTrainer`` names from ``sys.modules``.
"""

from __future__ import annotations

from types import MappingProxyType

from medmixers.mixers import TOKEN_MIXERS
from medmixers.nnunet.timed import nnUNetTrainerTimed
from medmixers.nnunet.trainer import nnUNetTrainerMedMixers


class nnUNetTrainerStockRecipe(nnUNetTrainerMedMixers):
    """The plans' network with nnU-Net's own recipe; unlike nnUNetTrainer, the environment sets the run's length."""


class nnUNetTrainerKeuth2025(nnUNetTrainerMedMixers):
    """The plans' network with the recipe of Keuth et al.: AdamW, warm-up, one cosine cycle."""

    recipe = "keuth2025_segmentation"


class nnUNetTrainerTshimanga2026(nnUNetTrainerMedMixers):
    """The plans' network with Token-UNet's recipe: SGD with Nesterov momentum, cosine, 16 patches per update."""

    recipe = "tshimanga2026"
    accumulate = True


class nnUNetTrainerXue2026(nnUNetTrainerMedMixers):
    """The plans' network with MedUNeXt's recipe: Adam, cosine. The paper gives no learning rate: it is ours."""

    recipe = "xue2026_segmentation"


class nnUNetTrainerTokenUNet(nnUNetTrainerMedMixers):
    """Token-UNet with its Transformer, on any plans; one update per batch."""

    network_name = "token_unet"
    recipe = "tshimanga2026"


class nnUNetTrainerTokenUNetNoTransformer(nnUNetTrainerMedMixers):
    """Token-UNet without the Transformer, on any plans: TokenLearner and TokenFuser only."""

    network_name = "token_unet_no_transformer"
    recipe = "tshimanga2026"


class nnUNetTrainerUNetStarStar(nnUNetTrainerMedMixers):
    """UNet**, the convolutional part of Token-UNet, on any plans."""

    network_name = "unet_star_star"
    recipe = "tshimanga2026"


class nnUNetTrainerMedUNeXt(nnUNetTrainerMedMixers):
    """MedUNeXt of Xue et al. on any plans."""

    network_name = "med_unext"
    recipe = "xue2026_segmentation"


class nnUNetTrainerTokenUNet_10minutes(nnUNetTrainerTimed):
    """Token-UNet after ten minutes of training on a laptop, on any plans."""

    network_name = "token_unet"


class nnUNetTrainerMetaFormerGroupedConv_10minutes(nnUNetTrainerTimed):
    """MetaFormer S12 with grouped convolution after ten minutes of training on a laptop, on any plans."""

    network_name = "metaformer_segformer_s12"
    network_options = MappingProxyType({"mixer": "grouped_conv", "layer_scale_init": 1.0, "drop_path_rate": 0.0})


def metaformer_trainer_name(mixer: str) -> str:
    """``grouped_conv`` -> ``nnUNetTrainerMetaFormerGroupedConv``, ``spatial_fc`` -> ``...SpatialFC``."""
    return "nnUNetTrainerMetaFormer" + mixer.replace("_", " ").title().replace(" ", "").replace("Fc", "FC")


def _metaformer_trainer(mixer: str) -> type[nnUNetTrainerMedMixers]:
    """MetaFormer S12 with one token mixer in all stages and the SegFormer decoder."""
    attributes = {
        "__module__": __name__,  # pickle looks for it here
        "__doc__": f"MetaFormer S12 with {mixer.replace('_', ' ')} as token mixer, SegFormer decoder, on any plans.",
        "network_name": "metaformer_segformer_s12",
        "network_options": MappingProxyType({"mixer": mixer}),
        "recipe": "keuth2025_segmentation",
    }
    return type(metaformer_trainer_name(mixer), (nnUNetTrainerMedMixers,), attributes)


_NAMED: tuple[type[nnUNetTrainerMedMixers], ...] = (
    nnUNetTrainerStockRecipe,
    nnUNetTrainerKeuth2025,
    nnUNetTrainerTshimanga2026,
    nnUNetTrainerXue2026,
    nnUNetTrainerTokenUNet,
    nnUNetTrainerTokenUNetNoTransformer,
    nnUNetTrainerUNetStarStar,
    nnUNetTrainerMedUNeXt,
    nnUNetTrainerTokenUNet_10minutes,
    nnUNetTrainerMetaFormerGroupedConv_10minutes,
)
# Trainers by class name. Each mixer in TOKEN_MIXERS has one.
TRAINERS: dict[str, type[nnUNetTrainerMedMixers]] = {
    trainer.__name__: trainer for trainer in (*_NAMED, *map(_metaformer_trainer, TOKEN_MIXERS))
}
globals().update(TRAINERS)
