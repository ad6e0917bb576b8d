"""Token mixers: modules that map a feature map (B, C, *spatial) to the same shape.

The table holds dotted paths, so listing the names imports no torch; :mod:`medmixers.mixers.build` makes the modules.
"""

from medmixers.registry import Registry

TOKEN_MIXERS: Registry[str] = Registry("token mixer")
for _name, _path in (
    ("identity", "identity.Identity"),
    ("pooling", "pooling.Pooling"),
    ("conv", "conv.Conv"),
    ("grouped_conv", "grouped_conv.GroupedConv"),
    ("local_attention", "local_attention.LocalAttention"),
    ("global_attention", "global_attention.GlobalAttention"),
    ("random_mixing", "random_mixing.RandomMixing"),
    ("sep_conv", "sep_conv.SepConv"),
    ("spatial_fc", "spatial_fc.SpatialFC"),
):
    TOKEN_MIXERS.register(_name, f"medmixers.mixers.{_path}")
