from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.kernels.random_rows import mix_by_random_rows, random_rows
from medmixers.layers.conv import check_spatial_dims
from medmixers.layers.sizes import check_feature_size, flatten_positions

STORED_TOKENS = 8192  # largest map with a stored matrix by default: 256 MiB
NO_SEED = -1  # marks a matrix that was loaded without a seed and cannot be made again


class RandomMixing(nn.Module):
    """A frozen random mixture of all positions (RandFormer, Yu et al. 2023, equation 6).

    y[m] = sum_n R[m, n] x[n], and row m of R is the softmax of uniform random numbers. They depend on m, n and a seed
    alone, and torch's generator draws the seed at construction. So the matrix can be stored, or made again row by row
    in every pass, with the same result on every device.

    Args:
        dim: channels C; any number, because the matrix does not depend on them.
        spatial_dims: 2 or 3.
        feature_size: spatial size of the feature map.
        stored: True stores the matrix, tokens squared numbers. False makes its rows again in every pass, with less
            memory and more time. None stores it up to 8192 tokens.

    Attributes:
        seed: makes the matrix. It is saved with the weights, so each form loads the weights of the other.
        mixing: the matrix, (tokens, tokens), also saved with the weights; None if it is not stored.
    """

    mixing: Tensor | None
    seed: Tensor

    def __init__(self, dim: int, *, spatial_dims: int, feature_size: Sequence[int], stored: bool | None = None) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        self.feature_size = tuple(feature_size)
        self.tokens = prod(self.feature_size)
        self.register_buffer("seed", torch.randint(2**31, ()))
        self.register_buffer("mixing", None)
        if self.tokens <= STORED_TOKENS if stored is None else stored:
            self.mixing = random_rows(self.seed, 0, self.tokens, self.tokens)

    def forward(self, x: Tensor) -> Tensor:
        """x: feature map, (B, C, *feature_size) -> the same shape. ValueError for another size."""
        check_feature_size(x, self.feature_size, "random_mixing")
        tokens = flatten_positions(x)
        matrix = self.mixing
        mixed = mix_by_random_rows(tokens, self.seed) if matrix is None else F.linear(tokens, matrix.to(x.dtype))
        return mixed.reshape(x.shape)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load weights of either form, or a bare matrix of another implementation (stored form only)."""
        seed, matrix = prefix + "seed", prefix + "mixing"
        if seed not in state_dict and matrix in state_dict:
            state_dict[seed] = torch.tensor(NO_SEED)
        known = seed in state_dict and state_dict[seed] != NO_SEED
        if self.mixing is None and state_dict.pop(matrix, None) is not None and not known:
            error_msgs.append(f"{matrix!r} was saved without a seed: build random_mixing with stored=True to load it")
        if self.mixing is not None and known and matrix not in state_dict:
            state_dict[matrix] = random_rows(state_dict[seed], 0, self.tokens, self.tokens)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
