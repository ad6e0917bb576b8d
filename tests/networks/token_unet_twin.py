"""A twin of the released Token-UNet, written from its rules with its names: an oracle for loading its checkpoints."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F


def alpha():
    return nn.Parameter(torch.tensor([-2.5]))


def unit(x):
    return F.normalize(x, dim=-1) * x.shape[-1] ** 0.5


def mix(a, x, branch):
    return (1 - a.sigmoid()) * x + a.sigmoid() * branch


class Block(nn.Module):
    def __init__(self, before, after, change):
        super().__init__()
        last = nn.ConvTranspose3d(2 * before, after, 2, 2) if change == "up" else nn.Conv3d(2 * before, after, 1)
        first = nn.Conv3d(before, 2 * before, 3, 2 if change == "down" else 1, 1)
        norms = nn.InstanceNorm3d(before), nn.InstanceNorm3d(2 * before)
        self.block = nn.Sequential(norms[0], first, nn.LeakyReLU(0.1), norms[1], last)
        self.res_alpha = alpha()
        volume = {"down": nn.AvgPool3d(2), "up": nn.Upsample(scale_factor=2, mode="trilinear"), "": nn.Identity()}
        self.adjust = nn.Sequential(volume[change], nn.Conv3d(before, after, 1))

    def forward(self, x):
        return mix(self.res_alpha, self.adjust(x), self.block(x))


class Stages(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.stages = nn.ModuleList()
        for block in blocks:
            stage = nn.Module()
            stage.blocks = nn.ModuleList([block])
            self.stages.append(stage)


class Masks(nn.Module):
    def __init__(self, channels, tokens):
        super().__init__()
        self.linear = nn.Linear(channels, tokens)

    def forward(self, positions):
        return self.linear(unit(positions)).sigmoid()


class Mlp(nn.Module):
    def __init__(self, dim, width):
        super().__init__()
        self.Wa, self.Wb = nn.Parameter(torch.randn(width, dim)), nn.Parameter(torch.randn(dim, width))
        self.alpha = alpha()

    def forward(self, x):
        width, dim = self.Wa.shape
        hidden = F.linear(x, self.Wa / dim**0.5).relu()
        return mix(self.alpha, x, F.linear(hidden, self.Wb / (width / 2) ** 0.5))


class Attend(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.Wqkv, self.Wo = nn.Parameter(torch.randn(3 * dim, dim)), nn.Parameter(torch.randn(dim, dim))
        self.alpha = alpha()

    def forward(self, x):
        dim = x.shape[-1]
        heads = []
        for q, k, v in zip(
            *(part.split(dim // 4, -1) for part in F.linear(x, self.Wqkv / dim**0.5).chunk(3, -1)), strict=True
        ):
            heads.append((unit(q) @ unit(k).mT / (dim // 4) ** 0.5).softmax(-1) @ v)
        return mix(self.alpha, x, F.linear(unit(torch.cat(heads, -1)), self.Wo / dim**0.5))


class Layer(nn.Module):
    def __init__(self, dim, tokens, kind):
        super().__init__()
        if kind == "attention":
            self.self_attn, self.mlp = Attend(dim), Mlp(dim, 2 * dim)
        else:
            self.token_mix, self.channel_mix = Mlp(tokens, 2 * dim), Mlp(dim, 2 * dim)

    def forward(self, x):
        if hasattr(self, "mlp"):
            return self.mlp(self.self_attn(x))
        return self.channel_mix(self.token_mix(x.mT).mT)


class TokenUNetTwin(nn.Module):
    """``kind``: "attention", "mlp" or "" for none; ``tokens`` 0 for none."""

    def __init__(self, *, channels=(4, 8, 12, 16), inputs=2, classes=3, tokens=8, kind="attention", layers=2):
        super().__init__()
        pairs = list(pairwise(channels))
        first = Block(inputs, channels[0], "")
        self.encoder = Stages([first, *(Block(a, b, "down") for a, b in pairs)])
        self.decoder = Stages([Block(b, a, "up") for a, b in reversed(pairs)])
        self.segmentation_head = nn.Conv3d(channels[0], classes, 1)
        self.kind, dim = kind, channels[-1]
        if tokens:
            self.token_learner, self.token_fuser = nn.Module(), nn.Module()
            self.token_learner.mask_maker = Masks(dim, tokens)
            self.token_learner.token_projector = nn.Linear(dim, dim)
            self.token_fuser.M, self.token_fuser.Beta = nn.Linear(tokens, tokens), Masks(dim, tokens)
        if kind:
            self.token_processor = nn.Module()
            self.token_processor.encoder = nn.ModuleList(Layer(dim, tokens, kind) for _ in range(layers))

    def forward(self, x):
        maps, x = [], F.instance_norm(x)
        for stage in self.encoder.stages:
            x = stage.blocks[0](x)
            maps.append(x)
        if hasattr(self, "token_learner"):
            maps[-1] = self.with_tokens(maps[-1])
        x = 0
        for stage in self.decoder.stages:
            x = stage.blocks[0](x + maps.pop())
        return self.segmentation_head(x)

    def with_tokens(self, x):
        rows = x.flatten(2).mT
        masks = self.token_learner.mask_maker(rows).mT
        tokens = self.token_learner.token_projector(masks / (masks.sum(-1, keepdim=True) + 1e-8) @ rows)
        if self.kind:
            tokens = unit(tokens)
            for layer in self.token_processor.encoder:
                tokens = layer(tokens)
        mixed = self.token_fuser.M(tokens.mT)
        return x + (mixed @ self.token_fuser.Beta(rows).mT).view_as(x)
