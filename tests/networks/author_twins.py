"""Twins of the authors' modules, written from their rules with their names: oracles for loading their checkpoints."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

CONVS, POOLS = {2: nn.Conv2d, 3: nn.Conv3d}, {2: nn.AvgPool2d, 3: nn.AvgPool3d}


def filled(module):
    """Values of order one everywhere: LayerScale 1e-5 or a zero bias would hide a wrong rule."""
    torch.manual_seed(0)
    for name, parameter in module.named_parameters():
        wide = parameter.ndim > 1
        nn.init.normal_(parameter, 0.0 if wide or name.endswith("bias") else 1.0, 0.1 if wide else 0.3)
    return module.eval()


class ChannelNorm(nn.Module):
    """Each position by the mean and variance of its channels; eps 1e-5."""

    def __init__(self, dim):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        centred = x - x.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        shape = (1, -1, *[1] * (x.ndim - 2))
        return scaled * self.weight.view(shape) + self.bias.view(shape)


class Pool(nn.Module):
    def __init__(self, dims, kernel=3):
        super().__init__()
        self.pool = POOLS[dims](kernel, 1, kernel // 2, count_include_pad=False)

    def forward(self, x):
        return self.pool(x) - x


class AddEmbedding(nn.Module):
    def __init__(self, dim, size):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, *size))

    def forward(self, x):
        return x + self.pos_embed


def heads_attend(q, k, v, head_dim, allowed=None):
    """Each head by itself: softmax of the scaled products, and the weighted values."""
    out = []
    for a, b, c in zip(q.split(head_dim, -1), k.split(head_dim, -1), v.split(head_dim, -1), strict=True):
        scores = a @ b.transpose(1, 2) / head_dim**0.5
        scores = scores if allowed is None else scores.masked_fill(~allowed, -torch.inf)
        out.append(scores.softmax(-1) @ c)
    return torch.cat(out, -1)


class GlobalAttend(nn.Module):
    def __init__(self, dim, head_dim):
        super().__init__()
        self.head_dim, self.qkv, self.proj = head_dim, nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim)

    def forward(self, x):
        tokens = x.flatten(2).mT
        mixed = heads_attend(*self.qkv(tokens).chunk(3, -1), self.head_dim)
        return self.proj(mixed).mT.reshape(x.shape)


class LocalAttend(nn.Module):
    """Keuth et al.'s local attention; ``limit``: maps of at most so many positions attend globally."""

    def __init__(self, dim, kernel, limit, head_dim=16):
        super().__init__()
        self.kernel, self.limit, self.head_dim = kernel, limit, head_dim
        self.in_proj_qkv_weights = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_qkv_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj_weights = nn.Parameter(torch.empty(dim, dim))
        self.out_proj_bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x):
        tokens, size = x.flatten(2).mT, x.shape[2:]
        places = torch.cartesian_prod(*[torch.arange(n) for n in size])
        near = ((places[:, None] - places[None]).abs() <= self.kernel // 2).all(-1)
        q, k, v = F.linear(tokens, self.in_proj_qkv_weights, self.in_proj_qkv_bias).chunk(3, -1)
        mixed = heads_attend(q, k, v, self.head_dim, near if len(places) > self.limit else None)
        return F.linear(mixed, self.out_proj_weights, self.out_proj_bias).mT.reshape(x.shape)


class Random(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.register_buffer("random_matrix", torch.rand(count, count).softmax(-1))

    def forward(self, x):
        return (x.flatten(2) @ self.random_matrix.T).view(x.shape)


class SpatialLinear(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.fc = nn.Linear(count, count, bias=False)

    def forward(self, x):
        return self.fc(x.flatten(2)).view(x.shape)


class Mlp(nn.Module):
    def __init__(self, dim, dims):
        super().__init__()
        self.fc1, self.fc2 = CONVS[dims](dim, 4 * dim, 1), CONVS[dims](4 * dim, dim, 1)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim, norm, mixer, dims):
        super().__init__()
        self.norm1, self.token_mixer, self.norm2, self.mlp = norm(dim), mixer, norm(dim), Mlp(dim, dims)
        self.layer_scale_1, self.layer_scale_2 = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.ones(dim))

    def forward(self, x):
        shape = (1, -1, *[1] * (x.ndim - 2))
        x = x + self.layer_scale_1.view(shape) * self.token_mixer(self.norm1(x))
        return x + self.layer_scale_2.view(shape) * self.mlp(self.norm2(x))


class Embed(nn.Module):
    def __init__(self, before, dim, dims, kernel, stride, padding):
        super().__init__()
        self.proj = CONVS[dims](before, dim, kernel, stride, padding)

    def forward(self, x):
        return self.proj(x)


class PoolFormerTwin(nn.Module):
    """PoolFormer of sail-sg, with any mixers: ``mixer(stage, block, dim)``; ``embedding``: stage -> size."""

    def __init__(
        self,
        mixer,
        *,
        classes=5,
        channels=3,
        norm="group",
        embedding=None,
        removed=False,
        dims=2,
        widths=(32, 32, 64, 64),
    ):
        super().__init__()
        norms = {"group": lambda dim: nn.GroupNorm(1, dim), "channel": ChannelNorm}
        self.patch_embed = Embed(channels, widths[0], dims, 7, 4, 2)
        network = []
        for stage, dim in enumerate(widths):
            if stage:
                network.append(Embed(widths[stage - 1], dim, dims, 3, 2, 1))
            if stage in (embedding or {}):
                network.append(nn.Identity() if removed else AddEmbedding(dim, embedding[stage]))
            depth = 2 if stage == 2 else 1
            blocks = [Block(dim, norms[norm], mixer(stage, block, dim), dims) for block in range(depth)]
            network.append(nn.Sequential(*blocks))
        self.network = nn.ModuleList(network)
        self.norm, self.head = norms[norm](widths[-1]), nn.Linear(widths[-1], classes)

    def forward(self, x):
        x = self.patch_embed(x)
        for module in self.network:
            x = module(x)
        return self.head(self.norm(x).flatten(2).mean(-1))


class LightningTwin(nn.Module):
    """Keuth et al.'s classifier: the network under ``model``, the loss's weights beside it."""

    def __init__(self, model):
        super().__init__()
        self.model, self.criterion = model, nn.CrossEntropyLoss(weight=torch.ones(5))

    def forward(self, x):
        return self.model(x)


class SegFormerTwin(nn.Module):
    """Keuth et al.'s segmenter: PoolFormer's stages with a norm each, an all-MLP decoder, fourfold upsampling."""

    def __init__(self, model, *, classes=4, channels=16, dims=2, widths=(32, 32, 64, 64)):
        super().__init__()
        self.encoder = model
        del model.norm, model.head
        for index, dim in zip((0, 2, 4, 6), widths, strict=True):
            model.add_module(f"norm{index}", nn.GroupNorm(1, dim))
        conv, self.mode = CONVS[dims], {2: "bilinear", 3: "trilinear"}[dims]
        self.decoder = nn.Module()
        self.decoder.mlp_layers = nn.ModuleList(conv(dim, channels, 1) for dim in widths)
        fuse = conv(4 * channels, channels, 1, bias=False)
        self.decoder.fuse_layer = nn.Sequential(fuse, nn.GroupNorm(1, channels), nn.GELU())
        self.seg_head = conv(channels, classes, 1)

    def forward(self, x):
        x, maps = self.encoder.patch_embed(x), []
        for index, module in enumerate(self.encoder.network):
            x = module(x)
            if index % 2 == 0:
                maps.append(self.encoder.get_submodule(f"norm{index}")(x))
        size = maps[0].shape[2:]
        maps = [layer(m) for layer, m in zip(self.decoder.mlp_layers, maps, strict=True)]
        maps = [F.interpolate(m, size=size, mode=self.mode, align_corners=False) for m in maps]
        y = self.seg_head(self.decoder.fuse_layer(torch.cat(maps, 1)))
        return F.interpolate(y, scale_factor=4, mode=self.mode, align_corners=False)


class ScaledNorm(nn.Module):
    """The baselines' norm of (B, H, W, C) without a bias, over ``axes``; eps 1e-6."""

    def __init__(self, dim, axes=(-1,)):
        super().__init__()
        self.axes, self.weight = axes, nn.Parameter(torch.ones(dim))

    def forward(self, x):
        centred = x - x.mean(self.axes, keepdim=True)
        return centred / (centred.square().mean(self.axes, keepdim=True) + 1e-6).sqrt() * self.weight


class Star(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.scale * x.clamp(min=0) ** 2 + self.bias


class Last(nn.Module):
    """A mixer of (B, C, H, W) for feature maps with the channels last."""

    def __new__(cls, mixer):
        mixer.register_forward_pre_hook(lambda _, args: (args[0].permute(0, 3, 1, 2),))
        mixer.register_forward_hook(lambda _, args, y: y.permute(0, 2, 3, 1))
        return mixer


class BaselineMlp(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, 4 * dim, bias=False), Star(), nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class ResidualScale(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return x * self.scale


class BaselineBlock(nn.Module):
    def __init__(self, dim, axes, mixer, scaled):
        super().__init__()
        self.norm1, self.norm2 = ScaledNorm(dim, axes), ScaledNorm(dim, axes)
        self.token_mixer, self.mlp = mixer, BaselineMlp(dim)
        self.res_scale1, self.res_scale2 = (ResidualScale(dim) if scaled else nn.Identity() for _ in range(2))

    def forward(self, x):
        x = self.res_scale1(x) + self.token_mixer(self.norm1(x))
        return self.res_scale2(x) + self.mlp(self.norm2(x))


class MlpHead(nn.Module):
    def __init__(self, dim, classes):
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(dim, 4 * dim), nn.LayerNorm(4 * dim), nn.Linear(4 * dim, classes)

    def forward(self, x):
        return self.fc2(self.norm(self.fc1(x).clamp(min=0) ** 2))


class Down(nn.Module):
    """Downsampling of the baselines; channels last, except the image."""

    def __init__(self, before, dim, first):
        super().__init__()
        self.first = first
        self.conv = nn.Conv2d(before, dim, 7, 4, 2) if first else nn.Conv2d(before, dim, 3, 2, 1)
        if first:
            self.post_norm = ScaledNorm(dim)
        else:
            self.pre_norm = ScaledNorm(before)

    def forward(self, x):
        x = x if self.first else self.pre_norm(x).permute(0, 3, 1, 2)
        x = self.conv(x).permute(0, 2, 3, 1)
        return self.post_norm(x) if self.first else x


class BaselineTwin(nn.Module):
    """sail-sg/metaformer: ``mixer(stage, dim)``; group norms with ``axes`` (1, 2, 3), channel norms with (-1,)."""

    def __init__(self, mixer, *, axes, mlp_head, classes=5, widths=(32, 32, 64, 64)):
        super().__init__()
        self.downsample_layers = nn.ModuleList(
            Down(before, dim, index == 0) for index, (before, dim) in enumerate(pairwise((3, *widths)))
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(BaselineBlock(dim, axes, mixer(stage, dim), stage > 1) for _ in range(2 if stage == 2 else 1))
            )
            for stage, dim in enumerate(widths)
        )
        self.norm = nn.LayerNorm(widths[-1], eps=1e-6)
        self.head = MlpHead(widths[-1], classes) if mlp_head else nn.Linear(widths[-1], classes)

    def forward(self, x):
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(down(x))
        return self.head(self.norm(x.mean((1, 2))))


class BaselineAttend(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)

    def forward(self, x):
        q, k, v = self.qkv(x.flatten(1, 2)).chunk(3, -1)
        return self.proj(heads_attend(q, k, v, 32)).view(x.shape)


class BaselineSepConv(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.pwconv1, self.act1 = nn.Linear(dim, 2 * dim, bias=False), Star()
        self.dwconv = nn.Conv2d(2 * dim, 2 * dim, 7, padding=3, groups=2 * dim, bias=False)
        self.pwconv2 = nn.Linear(2 * dim, dim, bias=False)

    def forward(self, x):
        x = self.act1(self.pwconv1(x)).permute(0, 3, 1, 2)
        return self.pwconv2(self.dwconv(x).permute(0, 2, 3, 1))
