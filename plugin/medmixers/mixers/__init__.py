"""Token mixers: modules that map a feature map (B, C, *spatial) to the same shape.

The table holds dotted paths, so listing it imports no torch; :mod:`medmixers.mixers.build` makes the modules.
"""

from typing import NamedTuple

from medmixers.registry import Registry


class MixerRow(NamedTuple):
    """Dotted path of a token mixer's class, and what it does in one line."""

    target: str
    summary: str


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
    TOKEN_MIXERS.register(_name, MixerRow(f"medmixers.mixers.{_path}", _summary))
