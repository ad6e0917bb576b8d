"""The loader of a training: as many batches per epoch as asked for."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from monai.data import Dataset

from medmixers.bundle_runtime.loading import OneLineLoader


@pytest.mark.parametrize(("items", "iterations"), [(3, 10), (40, 2)])
def test_iterations_per_epoch(items: int, iterations: int) -> None:
    """Whole permutations one after the other, the same from the same seed."""
    loader = OneLineLoader(Dataset(list(range(items))), batch_size=2, shuffle=True, iterations=iterations)
    passes = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        passes.append([int(number) for batch in loader for number in batch])
    assert len(loader) == iterations
    assert len(passes[0]) == 2 * iterations
    assert passes[0] == passes[1] != passes[2]
    counts = Counter(passes[0])
    assert max(counts.values()) - min(counts.get(number, 0) for number in range(items)) <= 1


def test_a_pass_without_iterations() -> None:
    loader = OneLineLoader(Dataset(list(range(5))), batch_size=2, iterations=None)
    assert torch.cat(list(loader)).tolist() == [0, 1, 2, 3, 4]
