"""Formats of checkpoints, as data: how to recognise each, our names for its names, and what its networks are built of.

Facts from the authors' public code: sail-sg/poolformer, sail-sg/metaformer, multimodallearning/MetaFormerMedImaging and
MedMaxLab/tokenunet.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Replacement = str | Callable[[re.Match[str]], str]


@dataclass(frozen=True)
class Rule:
    """Options of the network that a checkpoint comes from, where its names do not tell them.

    Args:
        pattern: the rule holds if a name of the checkpoint matches it; "" always holds.
        options: option of ``create_network`` or of its mixers -> value.
    """

    pattern: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class WeightFormat:
    """One format.

    Args:
        name: as reports and errors name it.
        marks: patterns, each of which matches a name of such a checkpoint.
        renames: (pattern, replacement), applied in order to every name. The result is our name.
        rules: what its networks are built of; a later rule overrides an earlier one.
    """

    name: str
    marks: tuple[str, ...]
    renames: tuple[tuple[str, Replacement], ...] = ()
    rules: tuple[Rule, ...] = ()


def _next(prefix: str, step: int) -> Callable[[re.Match[str]], str]:
    return lambda match: f"{prefix}.{int(match[1]) + step}."


ENCODER_RENAME = (r"^(stem|stages)\.", r"encoder.\1.")
HEAD_OF_POOL_NORM = {"head_order": "pool_norm", "head_norm": "layer_norm", "head_norm_eps": 1e-6}

# Keuth et al. put their mixers into the code of PoolFormer. `network.k` holds stages, downsamplings and embeddings in
# a row; `_network_renames` numbers them.
POOLFORMER_RENAMES: tuple[tuple[str, Replacement], ...] = (
    (r"^patch_embed\.proj\.", "stem.conv."),
    (r"\.layer_scale_(\d)$", r".layer_scale\1.scale"),
    (r"\.token_mixer\.(weight|bias)$", r".token_mixer.conv.\1"),
    (r"\.token_mixer\.in_proj_qkv_weights$", ".token_mixer.qkv.weight"),
    (r"\.token_mixer\.in_proj_qkv_bias$", ".token_mixer.qkv.bias"),
    (r"\.token_mixer\.out_proj_weights$", ".token_mixer.proj.weight"),
    (r"\.token_mixer\.out_proj_bias$", ".token_mixer.proj.bias"),
    (r"\.token_mixer\.0\.pos_embed$", ".token_mixer.pos_embedding"),
    (r"\.token_mixer\.1\.", ".token_mixer."),
    (r"\.token_mixer\.random_matrix$", ".token_mixer.mixing"),
    (r"^decoder\.mlp_layers\.", "decoder.projections."),
    (r"^decoder\.fuse_layer\.0\.", "decoder.fuse."),
    (r"^decoder\.fuse_layer\.1\.", "decoder.norm."),
    (r"^seg_head\.", "decoder.seg_layers.0."),
    ENCODER_RENAME,
)
POOLFORMER_RULES = (
    Rule("", {"norm": "group_norm", "norm_eps": 1e-5, "activation": "gelu"}),
    Rule("", {"head_order": "norm_pool", "head_norm": "group_norm", "head_norm_eps": 1e-5}),
    # Blocks stand at an odd index only behind an embedding, which Keuth et al. remove from the pretrained hybrids.
    Rule(r"^network\.\d*[13579]\.\d+\.|^network\.\d+\.pos_embed$", {"norm": "layer_norm", "head_norm": "layer_norm"}),
    Rule(r"\.token_mixer\.qkv\.", {"head_dim": 32}),
    Rule(r"\.token_mixer\.(1\.qkv|in_proj_)", {"head_dim": 16}),
)
BASELINE_RULES = (
    Rule("", {"norm": "group_norm", "norm_eps": 1e-6, "activation": "star_relu", **HEAD_OF_POOL_NORM}),
    Rule(r"\.token_mixer\.(pwconv1|qkv)\.", {"norm": "layer_norm"}),
    Rule(r"\.token_mixer\.qkv\.", {"head_dim": 32}),
)

FORMATS = (
    WeightFormat("medmixers", (r"^encoder\.stem\.",)),
    WeightFormat(
        "keuth2025",
        (r"patch_embed\.proj\.", r"\.token_mixer\.(weight|0\.|1\.|in_proj_|random_matrix)|^decoder\.mlp_layers\."),
        POOLFORMER_RENAMES,
        POOLFORMER_RULES,
    ),
    WeightFormat("sail-sg/poolformer", (r"^patch_embed\.proj\.",), POOLFORMER_RENAMES, POOLFORMER_RULES),
    WeightFormat(
        "sail-sg/metaformer",
        (r"^downsample_layers\.0\.conv\.",),
        (
            (r"^downsample_layers\.0\.post_norm\.", "stem.norm."),
            (r"^downsample_layers\.0\.", "stem."),
            (r"^downsample_layers\.(\d+)\.pre_norm\.", r"stages.\1.downsample.norm."),
            (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
            (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
            (r"\.token_mixer\.random_matrix$", ".token_mixer.mixing"),
            ENCODER_RENAME,
        ),
        (*BASELINE_RULES, Rule(r"^head\.fc1\.", {"head_mlp_eps": 1e-5})),
    ),
    WeightFormat(
        "timm",
        (r"^stem\.conv\.", r"^stages\.0\.blocks\."),
        ((r"^head\.norm\.", "norm."), (r"^head\.fc\.", "head."), ENCODER_RENAME),
        (
            *BASELINE_RULES,
            Rule(r"^head\.fc\.fc1\.", {"head_mlp_eps": 1e-6}),
            Rule(r"^stages\.0\.blocks\.0\.layer_scale1\.", {"norm_eps": 1e-5, "activation": "gelu"}),
        ),
    ),
    WeightFormat(
        "MedMaxLab/tokenunet",
        (r"^encoder\.stages\.0\.blocks\.0\.res_alpha$", r"^segmentation_head\."),
        (
            (r"^encoder\.stages\.0\.blocks\.0\.", "stem."),
            (r"^encoder\.stages\.(\d+)\.blocks\.0\.", _next("encoder", -1)),
            (r"^decoder\.stages\.(\d+)\.blocks\.0\.", r"decoder.\1."),
            (r"\.block\.", ".branch."),
            (r"\.adjust\.1\.", ".shortcut."),
            (r"^token_learner\.mask_maker\.linear\.", "token_learner.scores."),
            (r"^token_learner\.token_projector\.", "token_learner.project."),
            (r"^token_processor\.encoder\.(\d+)\.", _next("token_processor", 1)),
            (r"\.self_attn\.Wqkv$", ".qkv.weight"),
            (r"\.self_attn\.Wo$", ".out.weight"),
            (r"\.self_attn\.alpha$", ".gate.logit"),
            (r"\.token_mix\.", ".tokens."),
            (r"\.channel_mix\.", ".channels."),
            (r"\.Wa$", ".fc1.weight"),
            (r"\.Wb$", ".fc2.weight"),
            (r"\.(res_)?alpha$", ".gate.logit"),
            (r"^token_fuser\.M\.", "token_fuser.mix."),
            (r"^token_fuser\.Beta\.linear\.", "token_fuser.scores."),
            (r"^segmentation_head\.", "head."),
        ),
        (Rule(r"\.self_attn\.", {"attention_heads": 4}),),
    ),
    WeightFormat("ResNet of timm, torchvision or MONAI", (r"^conv1\.weight$", r"^layer4\.1\.conv2\.weight$")),
    WeightFormat(
        "keuth2025 (UNet@PatchEmb)",
        (r"^patch_embedding\.proj\.", r"^model\.model\."),
        ((r"^patch_embedding\.proj\.", "network.0."), (r"^model\.model\.", "network.1.model.")),
    ),
    WeightFormat("MONAI's UNet", (r"^model\.0\.", r"^model\.1\.submodule\."), ((r"^model\.", "network.model."),)),
)
OWN = FORMATS[0]


def recognise(names: Iterable[str], *, is_lightning: bool = False) -> WeightFormat | None:
    """The format of a checkpoint with these names; None for another one.

    Args:
        names: without the prefixes of wrappers.
        is_lightning: whether Lightning wrote it: PoolFormer's names are then of Keuth et al.
    """
    names = list(names)
    for row in FORMATS:
        if all(any(re.search(mark, name) for name in names) for mark in row.marks):
            return keuth2025() if is_lightning and row.name == "sail-sg/poolformer" else row
    return None


def keuth2025() -> WeightFormat:
    """The format of Keuth et al.'s MetaFormers."""
    return next(row for row in FORMATS if row.name == "keuth2025")


def our_names(names: Iterable[str], row: WeightFormat) -> dict[str, str]:
    """Each name of a checkpoint -> our name."""
    plain = {name: re.sub(r"^encoder\.(?=patch_embed\.|network\.|norm\d\.)", "", name) for name in names}
    renames = row.renames
    if row.renames is POOLFORMER_RENAMES:
        renames = (*_network_renames(plain.values()), *renames)
    else:
        plain = {name: name for name in names}
    renamed = {}
    for name, ours in plain.items():
        for pattern, replacement in renames:
            ours = re.sub(pattern, replacement, ours)
        renamed[name] = ours
    return renamed


def _network_renames(names: Iterable[str]) -> list[tuple[str, Replacement]]:
    """Renames of `network.k` and of the stages' norms: a downsampling opens a stage, and norms stand in its order."""
    names = list(names)
    indices = sorted({int(match[1]) for name in names if (match := re.match(r"network\.(\d+)\.", name))})
    renames: list[tuple[str, Replacement]] = []
    stage = 0
    for index in indices:
        if any(name.startswith(f"network.{index}.proj.") for name in names):
            stage += 1
        renames += [
            (rf"^network\.{index}\.proj\.", f"stages.{stage}.downsample.conv."),
            (rf"^network\.{index}\.pos_embed$", f"stages.{stage}.pos_embedding"),
            (rf"^network\.{index}\.(\d+)\.", rf"stages.{stage}.blocks.\1."),
        ]
    norms = sorted({int(match[1]) for name in names if (match := re.match(r"norm(\d+)\.", name))})
    return renames + [(rf"^norm{index}\.", f"norms.{place}.") for place, index in enumerate(norms)]
