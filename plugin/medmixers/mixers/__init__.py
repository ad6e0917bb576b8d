"""Token mixers: modules that map a feature map (B, C, *spatial) to the same shape.

The table holds dotted paths, so that listing it imports no torch. :mod:`medmixers.mixers.build` builds the modules.
"""

from typing import NamedTuple

from medmixers.registry import Registry


class MixerRow(NamedTuple):
    """One token mixer.

    Args:
        target: dotted path of its class.
        summary: one line for ``medmixers list mixers``.
        pairwise: whether it relates all pairs of positions, at a cost of positions squared.
        size_bound: whether it is built for one feature map size, its option ``feature_size``.
        takes_position: whether it can have a positional embedding, of its option ``feature_size``.
        has_kernel: whether it has the option ``kernel_size``.
    """

    target: str
    summary: str
    pairwise: bool = False
    size_bound: bool = False
    takes_position: bool = False
    has_kernel: bool = False


TOKEN_MIXERS: Registry[MixerRow] = Registry("token mixer", listing="medmixers list mixers")


def _row(name: str, target: str, summary: str, **flags: bool) -> None:
    TOKEN_MIXERS.register(name, MixerRow(f"medmixers.mixers.{target}", summary, **flags))


_row("identity", "identity.Identity", "no mixing")
_row("pooling", "pooling.Pooling", "local average minus the input", has_kernel=True)
_row("conv", "conv.Conv", "convolution across all channels", has_kernel=True)
_row("grouped_conv", "grouped_conv.GroupedConv", "depthwise convolution", has_kernel=True)
_row("local_attention", "local_attention.LocalAttention", "self-attention within a neighbourhood", has_kernel=True)
_row(
    "global_attention",
    "global_attention.GlobalAttention",
    "self-attention over all positions",
    pairwise=True,
    takes_position=True,
)
_row(
    "random_mixing",
    "random_mixing.RandomMixing",
    "frozen random matrix over all positions, one image size",
    pairwise=True,
    size_bound=True,
)
_row("sep_conv", "sep_conv.SepConv", "inverted separable convolution of ConvFormer", has_kernel=True)
_row(
    "spatial_fc",
    "spatial_fc.SpatialFC",
    "learned matrix over all positions, one image size",
    pairwise=True,
    size_bound=True,
)
_row("spectral", "spectral.Spectral", "learned filter of the Fourier transform (GFNet)")
_row("state_space", "state_space.StateSpace", "selective state space, scanned in both directions (Mamba-2)")
_row(
    "dilated_attention",
    "dilated_attention.DilatedAttention",
    "self-attention to a dilated neighbourhood (DiNAT)",
    has_kernel=True,
)
_row(
    "large_kernel",
    "large_kernel.LargeKernel",
    "decomposed large convolution that weighs its input (VAN)",
    has_kernel=True,
)
_row("linear_attention", "linear_attention.LinearAttention", "linear attention over all positions (MedNeXt)")
_row(
    "simplified_attention",
    "simplified_attention.SimplifiedAttention",
    "linear attention over all positions, without weights (MedNeXt)",
)
