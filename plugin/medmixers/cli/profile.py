"""``medmixers profile``: the cost of a network."""

from __future__ import annotations

from typing import Any

from medmixers.cli.commands import Size
from medmixers.cli.device import usable_device
from medmixers.errors import InputError
from medmixers.progress import steps


def profile(
    name: str,
    size: Size = (96, 96, 96),
    in_channels: int = 1,
    out_channels: int = 2,
    repeats: int = 5,
    threads: int = 1,
    device: str = "cpu",
    csv: str | None = None,
    sizes: str | None = None,
    **options: Any,
) -> str:
    """Measure parameters, MACs, latency and peak memory of one forward pass.

    Args:
        name: a network of `medmixers list networks`; all measures each of them in a process of its own, as CSV.
        size: image size in voxels, 2D or 3D.
        in_channels: channels of the image.
        out_channels: channels of the logits.
        repeats: number of timed passes.
        threads: number of CPU threads.
        device: cpu, cuda, cuda:1 or mps.
        csv: file to write as CSV, instead of printing.
        sizes: several image sizes, as 64x64,128x128, each measured in a process of its own, as CSV.
        options: of the network, as `medmixers list options NAME` lists them.

    Example:
        medmixers profile metaformer_s12 --size 224,224 --mixer grouped_conv --kernel_size 7
        medmixers profile metaformer_s12 --sizes 64x64,128x128,256x256 --csv pooling.csv
    """
    if threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    with steps(f"profile {name}") as announce:
        announce("load torch")
        import torch

        from medmixers.factory import list_networks
        from medmixers.profiling import profile_network, profile_to_csv

        request: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "repeats": repeats,
            "device": usable_device(device),
            **options,
        }
        if name != "all" and csv is None and sizes is None:
            announce("measure")
            torch.set_num_threads(threads)
            return str(profile_network(name, size=size, **request))
    names = list_networks() if name == "all" else [name]
    several = [size] if sizes is None else _sizes(sizes)
    text = profile_to_csv(names, sizes=several, file=csv, threads=threads, **request)
    return text.rstrip() if csv is None else f"{len(names)} network(s): {csv}"


def _sizes(words: str) -> list[Size]:
    try:
        return [tuple(int(extent) for extent in word.split("x")) for word in words.strip("()[]").split(",")]
    except ValueError:
        raise InputError(f"sizes must be image sizes, as 64x64,128x128, got {words!r}") from None
