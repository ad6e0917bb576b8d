"""Linear attention of Xue et al. 2026, for the MED block and the token mixers."""

from torch import Tensor


def linear_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax_C(Q) (softmax_N(K)^T V), of one head, at a cost linear in the positions (figure 2B).

    Args:
        query, key, value: maps, (B, C, *spatial); N positions.

    Returns:
        The same shape.
    """
    channels = query.flatten(2).softmax(1)  # (B, C, N)
    context = value.flatten(2) @ key.flatten(2).softmax(2).transpose(1, 2)  # (B, C of the value, C of the key)
    return (context @ channels).reshape(query.shape)
