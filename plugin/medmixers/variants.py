"""Every network that ``create_network`` knows, as frozen rows: class, fixed arguments and source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from medmixers.peers import (
    MONAI_CLASSIFICATION,
    MONAI_SEGMENTATION,
    MONAI_SIZE_BOUND,
    NNUNET,
    NNUNET_BLOCKS,
    Library,
    LibraryRegistry,
    timm_names,
)


@dataclass(frozen=True)
class NetworkRow:
    """One named network.

    Args:
        target: dotted path of its class.
        task: "classification" (logits (B, K)) or "segmentation" (logits (B, K, *spatial)).
        source: the paper, by its key in the references of plugin/docs/networks.md.
        summary: one line for ``medmixers list networks``.
        encoder: dotted path of the encoder class that the network is built around; None where it has none.
        arguments: what the name fixes; ``create_network``'s options override it.
        weights: source and format of published weights: "timm:NAME", which ``pretrained=True`` downloads, or the
            authors' repository and the name of its file; "" if there are none.
        has_tokens: whether its bottleneck has tokens, whose attention can be shown.
        size_bound: whether it is built for one image size, whatever its token mixers.
        blocks: dotted paths of the classes that activation checkpointing computes again.
    """

    target: str
    task: str
    source: str
    summary: str
    encoder: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    has_tokens: bool = False
    size_bound: bool = False
    blocks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", MappingProxyType(dict(self.arguments)))


@dataclass(frozen=True)
class MetaFormerSize:
    """Blocks and channels of the four stages."""

    depths: tuple[int, int, int, int]
    dims: tuple[int, int, int, int]

    @property
    def layer_scale_init(self) -> float:
        """LayerScale's start value at this depth (Yu et al. 2022, section 4.1)."""
        return 1e-5 if sum(self.depths) <= 24 else 1e-6


SMALL, MEDIUM = (64, 128, 320, 512), (96, 192, 384, 768)
METAFORMER_SIZES = {  # Yu et al. 2022, Table 1
    "s12": MetaFormerSize((2, 2, 6, 2), SMALL),
    "s24": MetaFormerSize((4, 4, 12, 4), SMALL),
    "s36": MetaFormerSize((6, 6, 18, 6), SMALL),
    "m36": MetaFormerSize((6, 6, 18, 6), MEDIUM),
    "m48": MetaFormerSize((8, 8, 24, 8), MEDIUM),
}
CONVFORMER_SIZES = {  # Yu et al. 2023, Table 2; ConvFormer and CAFormer
    "s18": MetaFormerSize((3, 3, 9, 3), SMALL),
    "s36": MetaFormerSize((3, 12, 18, 3), SMALL),
    "m36": MetaFormerSize((3, 12, 18, 3), (96, 192, 384, 576)),
    "b36": MetaFormerSize((3, 12, 18, 3), (128, 256, 512, 768)),
}

NETWORKS: LibraryRegistry[NetworkRow] = LibraryRegistry("network", listing="medmixers list networks")


def _of_monai(name: str) -> NetworkRow:
    return NetworkRow(
        target=f"medmixers.networks.monai_peers.{name}",
        task="segmentation" if name in MONAI_SEGMENTATION else "classification",
        source="monai",
        summary=f"MONAI's {name}",
        arguments={**MONAI_SEGMENTATION, **MONAI_CLASSIFICATION}[name],
        size_bound=name in MONAI_SIZE_BOUND,
    )


def _of_nnunet(name: str) -> NetworkRow:
    return NetworkRow(
        target=f"medmixers.networks.nnunet_peers.{name}",
        task="segmentation",
        source="nnunet",
        summary=NNUNET[name],
        blocks=tuple(f"dynamic_network_architectures.building_blocks.{each}" for each in NNUNET_BLOCKS),
    )


def _of_timm(name: str) -> NetworkRow:
    return NetworkRow(
        target=f"medmixers.networks.timm_peers.{name}",
        task="classification",
        source="timm",
        summary=f"timm's {name}, 2D",
        weights=f"timm:{name}",
        size_bound=True,  # some are built for an image size
    )


for _name, _names, _item in (
    ("monai", lambda: {**MONAI_SEGMENTATION, **MONAI_CLASSIFICATION}, _of_monai),
    ("nnunet", lambda: NNUNET, _of_nnunet),
    ("timm", timm_names, _of_timm),
):
    NETWORKS.libraries[_name] = Library(_names, _item, f"medmixers list peers {_name}")

ENCODER = "medmixers.networks.metaformer.MetaFormerEncoder"
CLASSIFIER = "medmixers.networks.classifier.MetaFormerClassifier"
SEGFORMER = "medmixers.networks.segformer.MetaFormerSegFormer"
METAFORMER_BLOCKS = ("medmixers.networks.blocks.MetaFormerBlock",)
MED_BLOCKS = tuple(f"medmixers.networks.med_blocks.{_name}" for _name in ("MEDBlock", "ConvNormAct"))
MONAI_UNET_BLOCKS = tuple(f"monai.networks.blocks.convolutions.{_name}" for _name in ("ResidualUnit", "Convolution"))
MONAI_RESNET_BLOCKS = ("monai.networks.nets.resnet.ResNetBlock",)
SWIN_UNETR_BLOCKS = (
    "monai.networks.nets.swin_unetr.SwinTransformerBlock",
    "monai.networks.blocks.unetr_block.UnetrBasicBlock",
    "monai.networks.blocks.unetr_block.UnetrUpBlock",
)
TOKEN_UNET_BLOCKS = (
    "medmixers.networks.token_unet.ResBlock",
    "medmixers.networks.token_unet_released.GatedBlock",
    "torch.nn.TransformerEncoderLayer",
)
POOL, ATTENTION = "pooling", "global_attention"

# Stochastic depth: constant 0.1 in Keuth et al. 2025; a ramp, off by default as in timm, in Yu et al. 2022 and 2023.
STUDY = {"drop_path_rate": 0.1, "drop_path_schedule": "constant"}
POOLFORMER = {"mixer": POOL, "head_order": "pool_norm"}
BASELINE = {  # Yu et al. 2023, section 2.4: StarReLU, ResScale in the last two stages, no biases in blocks
    "norm": "group_norm",
    "norm_bias": False,
    "norm_eps": 1e-6,
    "downsample_norm": "layer_norm",
    "activation": "star_relu",
    "mlp_bias": False,
    "layer_scale_init": None,
    "res_scale_init": (None, None, 1.0, 1.0),
    "head_order": "pool_norm",
}
CONVFORMER = {**BASELINE, "norm": "layer_norm", "mixer": "sep_conv", "head": "mlp"}
CAFORMER = {
    **CONVFORMER,
    "mixer": ("sep_conv", "sep_conv", ATTENTION, ATTENTION),
    "mixer_options": {"head_dim": 32, "proj_bias": False},
}
RANDFORMER = {**BASELINE, "mixer": ("identity", "identity", "random_mixing", "random_mixing")}


def _published(family: str, size: str) -> str:
    """Where the weights of a family of Yu et al. are: timm's hub, or the authors' files."""
    if family in ("identityformer", "randformer"):
        return f"sail-sg/metaformer: {family}_{size}.pth"
    return "" if family.startswith("metaformer") else f"timm:{family}_{size}"


for _family, _sizes, _target, _source, _fixed, _summary in (
    ("metaformer", METAFORMER_SIZES, CLASSIFIER, "keuth2025", STUDY, "MetaFormer, any token mixer, classifier"),
    ("metaformer_segformer", METAFORMER_SIZES, SEGFORMER, "keuth2025", STUDY, "MetaFormer, SegFormer decoder"),
    ("poolformer", METAFORMER_SIZES, CLASSIFIER, "yu2022", POOLFORMER, "PoolFormer"),
    ("poolformerv2", METAFORMER_SIZES, CLASSIFIER, "yu2023", {**BASELINE, "mixer": POOL}, "PoolFormerV2"),
    ("identityformer", METAFORMER_SIZES, CLASSIFIER, "yu2023", {**BASELINE, "mixer": "identity"}, "IdentityFormer"),
    ("randformer", METAFORMER_SIZES, CLASSIFIER, "yu2023", RANDFORMER, "RandFormer, one image size"),
    ("convformer", CONVFORMER_SIZES, CLASSIFIER, "yu2023", CONVFORMER, "ConvFormer"),
    ("caformer", CONVFORMER_SIZES, CLASSIFIER, "yu2023", CAFORMER, "CAFormer: convolution, then attention"),
):
    for _name, _size in _sizes.items():
        NETWORKS.register(
            f"{_family}_{_name}",
            NetworkRow(
                target=_target,
                task="segmentation" if _target == SEGFORMER else "classification",
                source=_source,
                summary=_summary,
                encoder=ENCODER,
                arguments={**vars(_size), "layer_scale_init": _size.layer_scale_init, **_fixed},
                blocks=METAFORMER_BLOCKS,
                weights=_published(_family, _name),
            ),
        )

# Hybrid stages of Yu et al. 2022, Table 5, as in the authors' code. Those with attention have LayerNorm over channels,
# heads of 32 channels, and one positional embedding, before the first block of attention. The head is norm, then mean.
CHANNEL_NORMS = {
    "norm": "layer_norm",
    "norm_eps": 1e-5,
    "head_order": "norm_pool",
    "head_norm": "layer_norm",
    "head_norm_eps": 1e-5,
}
HYBRID_WEIGHTS = "sail-sg/poolformer: metaformer_{}_s12_224.pth.tar"  # release v1.0 of that repository
for _letters in ("pppa", "ppaa", "pppf", "ppff"):
    _mixers = tuple({"p": POOL, "a": ATTENTION, "f": "spatial_fc"}[letter] for letter in _letters)
    _first = tuple(stage == _letters.find("a") for stage in range(4))
    _options: dict[str, Any] = {
        **CHANNEL_NORMS,
        "positional_embedding": _first,
        "positional_embedding_at": "stage",
        "mixer_options": {"head_dim": 32},
    }
    NETWORKS.register(
        f"metaformer_{_letters}_s12",
        NetworkRow(
            target=CLASSIFIER,
            task="classification",
            source="yu2022",
            summary=f"hybrid of {' - '.join(_mixers)}, one image size",
            encoder=ENCODER,
            arguments={
                **vars(METAFORMER_SIZES["s12"]),
                "mixer": _mixers,
                **(_options if "a" in _letters else {}),
            },
            blocks=METAFORMER_BLOCKS,
            weights=HYBRID_WEIGHTS.format(_letters),
        ),
    )

# Hybrids [P,P,T,T] of Keuth et al. 2025, Tables 2 and 8: the pretrained ppaa with other mixers in its last two stages,
# without its embedding. Mixers without attention load everything else; global attention keeps its heads of 32 channels.
for _mixer in ("identity", POOL, "conv", "grouped_conv", "local_attention", ATTENTION):
    _kernels = {} if _mixer in ("identity", ATTENTION) else {"kernel_size": (3, 3, 3, 3)}
    NETWORKS.register(
        f"hybrid_{_mixer}_s12",
        NetworkRow(
            target=CLASSIFIER,
            task="classification",
            source="keuth2025",
            summary=f"[P,P,T,T]: pooling, then {_mixer}; for the weights of metaformer_ppaa_s12",
            encoder=ENCODER,
            arguments={
                **vars(METAFORMER_SIZES["s12"]),
                "layer_scale_init": 1e-5,
                **STUDY,
                **CHANNEL_NORMS,
                "mixer": (POOL, POOL, _mixer, _mixer),
                **_kernels,
                **({"mixer_options": {"head_dim": 32}} if _mixer == ATTENTION else {}),
            },
            blocks=METAFORMER_BLOCKS,
            weights=HYBRID_WEIGHTS.format("ppaa"),
        ),
    )

# Isotropic IdentityFormer (Yu et al. 2023, section 3.5): one stage of 18 blocks of width 384, one token for 16 pixels.
for _suffix, _stem in (("", "patch"), ("_conv_stem", "convolutional")):
    NETWORKS.register(
        f"identityformer_isotropic_s{_suffix}",
        NetworkRow(
            target=CLASSIFIER,
            task="classification",
            source="yu2023",
            summary=f"isotropic IdentityFormer, {_stem} stem",
            encoder=ENCODER,
            arguments={
                **BASELINE,
                "depths": (18,),
                "dims": (384,),
                "stem": _stem,
                "stem_stride": 16,
                "mixer": "identity",
                "res_scale_init": None,
            },
            blocks=METAFORMER_BLOCKS,
        ),
    )

RAD_DINO_BLOCKS = ("medmixers.networks.rad_dino.CosineHead", "medmixers.networks.segformer.SegFormerDecoder")
for _name, _target, _task, _summary in (
    ("rad_dino_classifier", "RadDinoClassifier", "classification", "frozen RAD-DINO, MLP on its CLS token, 2D"),
    ("rad_dino_segformer", "RadDinoSegFormer", "segmentation", "frozen RAD-DINO, SegFormer decoder, 2D"),
):
    NETWORKS.register(
        _name,
        NetworkRow(
            target=f"medmixers.networks.rad_dino.{_target}",
            task=_task,
            source="keuth2025",
            summary=_summary,
            blocks=RAD_DINO_BLOCKS,
        ),
    )

for _name, _target, _task, _summary in (
    ("med_next", "med_next.MedNeXt", "classification", "MedNeXt of Xue et al. (not MIC-DKFZ's, which MONAI has)"),
    ("med_unext", "med_unext.MedUNeXt", "segmentation", "MedUNeXt of Xue et al., parameter-matched reconstruction"),
):
    NETWORKS.register(
        _name,
        NetworkRow(
            target=f"medmixers.networks.{_target}",
            task=_task,
            source="xue2026",
            summary=_summary,
            blocks=MED_BLOCKS,
            size_bound=True,
        ),
    )

for _name, _target, _task, _source, _blocks, _summary in (
    ("unet_keuth2025", "study_unet", "segmentation", "keuth2025", MONAI_UNET_BLOCKS,
     "MONAI's UNet as in Keuth et al., kernel 3 to 9"),
    ("unet_patch_embedding_keuth2025", "study_unet_patch_embedding", "segmentation", "keuth2025", MONAI_UNET_BLOCKS,
     "UNet@PatchEmb of Keuth et al.: MetaFormer's stem, MONAI's UNet"),
    ("resnet18_keuth2025", "study_resnet18", "classification", "keuth2025", MONAI_RESNET_BLOCKS,
     "MONAI's ResNet18 with widened kernels, as in Keuth et al."),
    ("unet_tshimanga2026", "token_unet_paper_unet", "segmentation", "tshimanga2026", MONAI_UNET_BLOCKS,
     "MONAI's UNet of six levels"),
    ("swin_unetr_tshimanga2026", "swin_unetr", "segmentation", "tshimanga2026", SWIN_UNETR_BLOCKS,
     "MONAI's SwinUNETR, 24 features"),
):  # fmt: skip
    NETWORKS.register(
        _name,
        NetworkRow(
            target=f"medmixers.networks.baselines.{_target}",
            task=_task,
            source=_source,
            summary=_summary,
            blocks=_blocks,
            weights="timm:resnet18" if _name == "resnet18_keuth2025" else "",
        ),
    )

TOKEN_UNET, NO_TOKENS = "medmixers.networks.token_unet.TokenUNet", {"num_tokens": 0, "transformer_layers": 0}
RELEASED = "medmixers.networks.token_unet_released.TokenUNetReleased"
TOKEN_UNETS: tuple[tuple[str, str, str, Mapping[str, Any]], ...] = (
    ("unet_star_star", TOKEN_UNET, "UNet**: residual U-Net with additive skips", NO_TOKENS),
    ("token_unet_no_transformer", TOKEN_UNET, "UNet** + TokenLearner + TokenFuser", {"transformer_layers": 0}),
    ("token_unet", TOKEN_UNET, "UNet** + TokenLearner + 4-layer Transformer + TokenFuser", {}),
    ("token_unet_released_no_tokens", RELEASED, "the authors' released code: gated U-Net without tokens",
     {"num_tokens": 0, "token_processor": "none"}),
    *(
        (f"token_unet_released_{_tokens}{_suffix}", RELEASED, f"the authors' released code: {_tokens} tokens{_what}",
         {"num_tokens": _tokens, "token_processor": _processor})
        for _tokens in (8, 32)
        for _suffix, _what, _processor in (
            ("", "", "none"),
            ("_mlp_mixer", ", MLP-Mixer of 2 layers", "mlp_mixer"),
            ("_attention", ", attention of 2 layers", "attention"),
        )
    ),
    ("token_unet_released_32_attention_long", RELEASED, "the authors' released code: 32 tokens, attention of 8 layers",
     {"num_tokens": 32, "token_processor": "attention", "processor_layers": 8}),
)  # fmt: skip
for _name, _target, _summary, _arguments in TOKEN_UNETS:
    NETWORKS.register(
        _name,
        NetworkRow(
            target=_target,
            task="segmentation",
            source="tshimanga2026",
            summary=_summary,
            arguments=_arguments,
            has_tokens=_arguments.get("num_tokens") != 0,
            blocks=TOKEN_UNET_BLOCKS,
        ),
    )
