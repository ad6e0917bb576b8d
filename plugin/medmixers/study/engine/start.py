"""Start weights of a training: published ones where they fit, the rest at random by the run's seed. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medmixers.factory import create_network, stage_mixers
from medmixers.files import written_whole

MIXER = ".token_mixer."  # in the keys of a MetaFormer's state dict


def write_start_weights(
    file: Path, network: str, options: Mapping[str, Any], *, weights: str | bool, warm_start: bool, seed: int
) -> None:
    """Write the state dict of a network with start weights.

    Args:
        file: to write.
        network: its name.
        options: of ``create_network``, the channels among them.
        weights: as ``pretrained`` of ``create_network``.
        warm_start: whether token mixers take weights too, where they fit; otherwise they start at random.
        seed: of what starts at random.

    Raises:
        InputError: weights that do not fit.
        OSError: weights that cannot be read or downloaded.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random = create_network(network, **options).state_dict()
        torch.manual_seed(seed)
        other_mixers = bool(stage_mixers(network, options))
        state = create_network(network, **options, pretrained=weights, warm_start=other_mixers).state_dict()
    if not warm_start:
        state |= {key: value for key, value in random.items() if MIXER in key}
    with written_whole(file) as partial:
        torch.save(dict(state), partial)
