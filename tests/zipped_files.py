"""The smallest files that make a bundle's zip."""

from __future__ import annotations

import io

import torch


def tensors(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


FILES = {
    "LICENSE": b"Apache License",
    "configs/metadata.json": b"{}",
    "models/model.pt": tensors({"weight": torch.arange(3)}),
}
