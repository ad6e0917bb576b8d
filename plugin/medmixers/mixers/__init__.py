"""Token mixers: modules that map a feature map (B, C, *spatial) to the same shape.

The table holds dotted paths, so listing it imports no torch; :mod:`medmixers.mixers.build` makes the modules.
"""

from typing import NamedTuple

from medmixers.registry import Registry


class MixerRow(NamedTuple):
    """One token mixer.

    Args:
        target: dotted path of its class.
        summary: what it does, in one line.
        pairwise: whether it relates all pairs of positions: its cost grows with positions squared.
        size_bound: whether it is built for one image size.
    """

    target: str
    summary: str
    pairwise: bool = False
    size_bound: bool = False


TOKEN_MIXERS: Registry[MixerRow] = Registry("token mixer")
for _name, _path, _summary in (
    ("identity", "identity.Identity", "no mixing"),
    ("pooling", "pooling.Pooling", "local average minus the input"),
    ("conv", "conv.Conv", "convolution across all channels"),
    ("grouped_conv", "grouped_conv.GroupedConv", "depthwise convolution"),
    ("local_attention", "local_attention.LocalAttention", "self-attention within a neighbourhood"),
    ("global_attention", "global_attention.GlobalAttention", "self-attention over all positions"),
    ("random_mixing", "random_mixing.RandomMixing", "frozen random matrix over all positions, one image size"),
    ("sep_conv", "sep_conv.SepConv", "inverted separable convolution of ConvFormer"),
    ("spatial_fc", "spatial_fc.SpatialFC", "learned matrix over all positions, one image size"),
):
    TOKEN_MIXERS.register(
        _name,
        MixerRow(
            f"medmixers.mixers.{_path}",
            _summary,
            pairwise=_name in ("global_attention", "random_mixing", "spatial_fc"),
            size_bound=_name in ("random_mixing", "spatial_fc"),
        ),
    )
