"""RAD-DINO as a 2D baseline: a frozen ViT-B/14 with a trained head (Keuth et al. 2025, sections 4.1.4 and 4.2.3).

The encoder is ``microsoft/rad-dino`` on the Hugging Face hub (Pérez-García et al. 2025), or a module of the caller.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from medmixers.errors import InputError, MissingPackageError, first_line
from medmixers.layers.sizes import check_image_shape, crop, resize
from medmixers.networks.segformer import SegFormerDecoder

HUB_NAME = "microsoft/rad-dino"
DECODED_LAYERS = 4  # the last four layers, 8 to 11 of ViT-B


def load_encoder(source: str) -> nn.Module:
    """Load a model by ``transformers``.

    Args:
        source: name on the hub, from where transformers downloads it, or a folder that ``save_pretrained`` wrote.

    Raises:
        ImportError: transformers is not installed.
        OSError: transformers could not load the model.
    """
    try:
        from transformers import AutoModel
    except ImportError as error:
        raise MissingPackageError(
            f"transformers is needed to load {source!r}: pip install 'medmixers[rad_dino]', or give a module as encoder"
        ) from error
    device = torch.get_default_device()
    try:
        with torch.device("cpu"):  # transformers refuses to load on the meta device
            return AutoModel.from_pretrained(source).to(device)
    except Exception as error:  # the hub's client raises many kinds of errors
        raise OSError(
            f"transformers could not load {source!r} ({first_line(error)}); fetch it elsewhere and give its folder"
        ) from error


class FrozenViT(nn.Module):
    """Base of both networks: a ViT in eval mode without gradients, and the preparation of its images.

    The state dict also holds the encoder. So a checkpoint (346 MB for ViT-B) does not depend on what the hub holds
    later, and the strict loading of nnU-Net, MONAI and torch needs no exception.

    Args:
        spatial_dims: 2.
        in_channels: channels of the image: 1, repeated to 3, or 3.
        encoder: a source for :func:`load_encoder`; or a ``Dinov2Model`` of transformers; or a module with these of its
            attributes: ``config`` with ``hidden_size``, ``image_size``, ``patch_size``, ``num_hidden_layers``;
            ``layernorm``; and a forward that takes ``pixel_values`` and ``output_hidden_states`` and returns
            ``last_hidden_state`` and ``hidden_states``, with the patches last in each.

    Raises:
        ValueError: 3D, other channels, or an encoder without these attributes.
    """

    def __init__(self, spatial_dims: int, in_channels: int, *, encoder: nn.Module | str) -> None:
        super().__init__()
        if spatial_dims != 2:
            raise InputError(f"RAD-DINO takes 2D images: spatial_dims must be 2, got {spatial_dims!r}")
        if in_channels not in (1, 3):
            raise InputError(f"RAD-DINO takes grey or RGB images: in_channels must be 1 or 3, got {in_channels!r}")
        vit: Any = load_encoder(encoder) if isinstance(encoder, str) else encoder
        config: Any = getattr(vit, "config", None)
        needed = ("hidden_size", "image_size", "patch_size", "num_hidden_layers")
        if not hasattr(vit, "layernorm") or not all(isinstance(getattr(config, name, None), int) for name in needed):
            raise InputError(
                f"encoder must have a layernorm and a config with the integers {', '.join(needed)}, as transformers' "
                f"Dinov2Model; got {type(vit).__name__}"
            )
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self.encoder = vit.requires_grad_(False).eval()
        self.dim, self.image_size = config.hidden_size, config.image_size
        self.grid = config.image_size // config.patch_size

    def train(self, mode: bool = True) -> FrozenViT:
        """Set the mode of the head; the encoder stays in eval mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def prepare(self, x: Tensor) -> Tensor:
        """x: image, (B, in_channels, H, W) of any size -> (B, 3, image_size, image_size).

        Zeros at the end make it square. The interpolation is bilinear, corners not aligned. Intensities do not change.
        """
        check_image_shape(x, self.spatial_dims, self.in_channels)
        height, width = x.shape[2:]
        side = max(height, width)
        square = F.pad(x, (0, side - width, 0, side - height))
        return resize(square, (self.image_size, self.image_size)).expand(-1, 3, -1, -1)


class CosineHead(nn.Module):
    """Linear, GELU, linear, L2 norm, weight-normed linear without bias: DINO's head with two layers.

    The rows of the last layer start with length 1, so the logits start as cosines.

    Args:
        dim: channels of the token.
        out_channels: classes K.
        hidden_channels, bottleneck_channels: widths of the two linear layers.
    """

    def __init__(
        self, dim: int, out_channels: int, *, hidden_channels: int = 2048, bottleneck_channels: int = 256
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_channels)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_channels, bottleneck_channels)
        for layer in (self.fc1, self.fc2):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        last = nn.Linear(bottleneck_channels, out_channels, bias=False)
        with torch.no_grad():
            last.weight.copy_(F.normalize(last.weight, dim=1))
        self.classify = weight_norm(last)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C) -> logits, (B, K)."""
        return self.classify(F.normalize(self.fc2(self.act(self.fc1(x))), dim=-1))


class RadDinoClassifier(FrozenViT):
    """Frozen ViT, and :class:`CosineHead` on its normalised CLS token.

    The authors' classification code aligns corners when it resizes the image. Ours does not, like their segmentation.

    Args:
        spatial_dims, in_channels, encoder: as of :class:`FrozenViT`.
        out_channels: classes K.
        hidden_channels, bottleneck_channels: as of :class:`CosineHead`.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        encoder: nn.Module | str = HUB_NAME,
        hidden_channels: int = 2048,
        bottleneck_channels: int = 256,
    ) -> None:
        super().__init__(spatial_dims, in_channels, encoder=encoder)
        self.head = CosineHead(
            self.dim, out_channels, hidden_channels=hidden_channels, bottleneck_channels=bottleneck_channels
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: image, (B, in_channels, H, W) of any size -> logits, (B, K)."""
        return self.head(self.encoder(pixel_values=self.prepare(x)).last_hidden_state[:, 0])


class RadDinoSegFormer(FrozenViT):
    """Frozen ViT, and a SegFormer decoder on the normalised patch tokens of its last four layers.

    Args:
        spatial_dims, in_channels, encoder: as of :class:`FrozenViT`; the encoder needs at least four layers.
        out_channels: classes (or sigmoid channels) K.
        decoder_channels: width of the decoder.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        encoder: nn.Module | str = HUB_NAME,
        decoder_channels: int = 256,
    ) -> None:
        super().__init__(spatial_dims, in_channels, encoder=encoder)
        if (layers := self.encoder.config.num_hidden_layers) < DECODED_LAYERS:
            raise InputError(f"encoder must have at least {DECODED_LAYERS} layers, got {layers}")
        self.decoder = SegFormerDecoder(
            (self.dim,) * DECODED_LAYERS, out_channels, spatial_dims=spatial_dims, channels=decoder_channels
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: image, (B, in_channels, H, W) of any size -> logits, (B, K, H, W)."""
        layers = self.encoder(pixel_values=self.prepare(x), output_hidden_states=True).hidden_states[-DECODED_LAYERS:]
        patches = (self.encoder.layernorm(layer)[:, -(self.grid**2) :] for layer in layers)
        features = [tokens.transpose(1, 2).unflatten(2, (self.grid, self.grid)) for tokens in patches]
        side = max(x.shape[2:])
        return crop(resize(self.decoder(features), (side, side)), x.shape[2:])
