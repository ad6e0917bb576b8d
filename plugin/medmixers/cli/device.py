"""The option --device of every command that has it."""

from __future__ import annotations

from medmixers.errors import InputError


def usable_device(name: str) -> str:
    """``name`` if torch can compute there; InputError with the valid names otherwise."""
    import torch

    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError):  # torch without CUDA asserts
        others = ["mps"] if torch.backends.mps.is_available() else []
        valid = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count())), *others]
        raise InputError(f"device {name!r} cannot be used here; valid: {', '.join(valid)}") from None
    return name
