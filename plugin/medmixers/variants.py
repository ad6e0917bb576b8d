"""Every network that ``create_network`` knows, as frozen rows: class, fixed arguments and source. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from medmixers.registry import Registry


@dataclass(frozen=True)
class NetworkRow:
    """One named network.

    Args:
        target: dotted path of its class.
        task: "classification" (logits (B, K)) or "segmentation" (logits (B, K, *spatial)).
        source: the paper, by its key in the README's references.
        summary: one line for ``medmixers list networks``.
        encoder: dotted path of the encoder class that the network is built around; None where it has none.
        arguments: what the name fixes; ``create_network``'s options override it.
    """

    target: str
    task: str
    source: str
    summary: str
    encoder: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", MappingProxyType(dict(self.arguments)))


@dataclass(frozen=True)
class MetaFormerSize:
    """Blocks and channels of the four stages, and the LayerScale start value of that depth (Yu et al. 2022)."""

    depths: tuple[int, int, int, int]
    dims: tuple[int, int, int, int]
    layer_scale_init: float


SMALL, MEDIUM = (64, 128, 320, 512), (96, 192, 384, 768)
METAFORMER_SIZES: Registry[MetaFormerSize] = Registry("MetaFormer size")
for _name, _depths, _dims, _init in (
    ("s12", (2, 2, 6, 2), SMALL, 1e-5),
    ("s24", (4, 4, 12, 4), SMALL, 1e-5),
    ("s36", (6, 6, 18, 6), SMALL, 1e-6),
    ("m36", (6, 6, 18, 6), MEDIUM, 1e-6),
    ("m48", (8, 8, 24, 8), MEDIUM, 1e-6),
):
    METAFORMER_SIZES.register(_name, MetaFormerSize(_depths, _dims, _init))

NETWORKS: Registry[NetworkRow] = Registry("network")

# Stochastic depth: constant 0.1 in Keuth et al. 2025; a ramp, off by default as in timm, in Yu et al. 2022.
_STUDY = {"drop_path_rate": 0.1, "drop_path_schedule": "constant"}
_POOLFORMER = {
    "drop_path_rate": 0.0,
    "drop_path_schedule": "ramp",
    "mixer": "pooling",
    "head_order": "pool_norm",
}
for _family, _target, _task, _source, _fixed, _summary in (
    ("metaformer", "classifier.MetaFormerClassifier", "classification", "keuth2025", _STUDY,
     "MetaFormer {}, any token mixer, classifier"),
    ("metaformer_segformer", "segformer.MetaFormerSegFormer", "segmentation", "keuth2025", _STUDY,
     "MetaFormer {}, any token mixer, SegFormer decoder"),
    ("poolformer", "classifier.MetaFormerClassifier", "classification", "yu2022", _POOLFORMER,
     "PoolFormer {}, timm's logits with timm's weights"),
):  # fmt: skip
    for _name, _size in METAFORMER_SIZES.items():
        NETWORKS.register(
            f"{_family}_{_name}",
            NetworkRow(
                target=f"medmixers.networks.{_target}",
                task=_task,
                source=_source,
                summary=_summary.format(_name.upper()),
                encoder="medmixers.networks.metaformer.MetaFormerEncoder",
                arguments={**vars(_size), **_fixed},
            ),
        )

for _name, _summary, _arguments in (
    (
        "unet_star_star",
        "UNet**: residual U-Net with additive skips",
        {"num_tokens": 0, "transformer_layers": 0},
    ),
    ("token_unet_no_transformer", "UNet** + TokenLearner + TokenFuser", {"transformer_layers": 0}),
    ("token_unet", "UNet** + TokenLearner + 4-layer Transformer + TokenFuser", {}),
):
    NETWORKS.register(
        _name,
        NetworkRow(
            target="medmixers.networks.token_unet.TokenUNet",
            task="segmentation",
            source="tshimanga2026",
            summary=_summary,
            arguments=_arguments,
        ),
    )
