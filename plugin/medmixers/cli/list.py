"""``medmixers list``: names and one line about each, without torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from medmixers.errors import InputError

# Start of networks' names -> formats of checkpoints that load into them, as networks/weights/formats.py names them.
WEIGHT_FORMATS = {
    "metaformer_": ("keuth2025",),
    "metaformer_pp": ("sail-sg/poolformer",),  # pppa, ppaa, pppf, ppff
    "hybrid_": ("sail-sg/poolformer", "keuth2025"),
    "poolformer_": ("timm", "sail-sg/poolformer"),
    **dict.fromkeys(("poolformerv2_", "identityformer_", "convformer_", "caformer_"), ("timm", "sail-sg/metaformer")),
    "identityformer_isotropic_": (),
    "randformer_": ("sail-sg/metaformer",),
    "resnet18_keuth2025": ("ResNet of timm, torchvision or MONAI",),
    "unet_keuth2025": ("MONAI's UNet",),
    "unet_patch_embedding_keuth2025": ("keuth2025 (UNet@PatchEmb)",),
    "token_unet_released_": ("MedMaxLab/tokenunet",),
    "token_unet": ("timm (Transformer over tokens)",),
    "token_unet_no_transformer": (),
}


class List:
    """List available networks, mixers, tasks and bundles."""

    def networks(self) -> str:
        """List the networks for bundles, nnU-Net plans and `create_network`.

        Example:
            medmixers list networks
        """
        from medmixers.results import network_facts
        from medmixers.variants import NETWORKS

        counts = network_facts()["parameters"]
        head = ("NAME", "TASK", "2D", "3D", "SOURCE", "WEIGHTS", "FORMATS", "SUMMARY")
        rows = (
            (
                name,
                row.task,
                *(_millions(counts.get(name, {}).get(dims)) for dims in ("2D", "3D")),
                row.source,
                row.weights or "-",
                ", ".join(formats_of(name)) or "-",
                row.summary,
            )
            for name, row in sorted(NETWORKS.items())
        )
        return (
            f"{table([head, *rows])}\n\n"
            "WEIGHTS: published weights, of timm (pretrained=True downloads them) or a file in the authors' code.\n"
            "FORMATS: checkpoints that load besides this package's own; plugin/docs/networks.md describes them.\n"
            "2D, 3D: millions of trainable parameters with 1 input channel and 2 outputs; '-' where there is no such\n"
            "form. Networks bound to an image size are counted at 224 x 224 and 96 x 96 x 96.\n"
            "`medmixers list peers` lists the networks of MONAI, nnU-Net and timm that have names here too."
        )

    def peers(self, library: str | None = None) -> str:
        """List the networks of other libraries that bundles, plans, studies and `create_network` take.

        Args:
            library: monai, nnunet or timm; timm's 1,200 are listed only so.

        Example:
            medmixers list peers timm
        """
        from medmixers.registry import valid_names
        from medmixers.variants import NETWORKS

        if library is not None and library not in NETWORKS.libraries:
            raise InputError(f"unknown library {library!r}; valid: {valid_names(library, NETWORKS.libraries)}")
        shown = ["monai", "nnunet"] if library is None else [library]
        names = [f"{each}:{name}" for each in shown for name in sorted(NETWORKS.libraries[each].names())]
        rows = table(
            [("NAME", "TASK", "SUMMARY"), *((name, NETWORKS[name].task, NETWORKS[name].summary) for name in names)]
        )
        return rows if library else f"{rows}\n\ntimm:NAME is a classifier of timm, 2D; `medmixers list peers timm`."

    def mixers(self) -> str:
        """List the token mixers of the MetaFormer networks.

        Example:
            medmixers list mixers
        """
        from medmixers.mixers import TOKEN_MIXERS

        return table((name, row.summary) for name, row in sorted(TOKEN_MIXERS.items()))

    def tasks(self) -> str:
        """List the tasks that bundles are made for.

        Example:
            medmixers list tasks
        """
        from medmixers.tasks import TASKS

        return table((name, row.task, row.title) for name, row in sorted(TASKS.items()))

    def converters(self) -> str:
        """List the tasks with a public data set that `medmixers dataset convert` reads.

        Example:
            medmixers list converters
        """
        from medmixers.datasets.converters import CONVERTERS
        from medmixers.tasks import TASKS

        return table((name, TASKS[name].task, TASKS[name].title) for name, _ in sorted(CONVERTERS.items()))

    def recipes(self) -> str:
        """List the training recipes of bundles.

        Example:
            medmixers list recipes
        """
        from medmixers.recipes import RECIPES

        head = ("NAME", "TASK", "OPTIMIZER", "LEARNING RATE", "BATCH", "EPOCHS", "SOURCE")
        rows = (
            (
                name,
                "classification" if row.dice_weight == 0 else "segmentation",
                row.optimizer,
                f"{row.learning_rate:g}",
                " x ".join(str(n) for n in (row.batch_size, row.patches_per_image, row.accumulate_batches) if n > 1)
                or "1",
                row.epochs,
                row.source,
            )
            for name, row in sorted(RECIPES.items())
        )
        return (
            f"{table([head, *rows])}\n\n"
            "BATCH: images per batch, times patches per image, times batches per update, where they are above 1.\n"
            "plugin/medmixers/recipes.py holds all values and says where they depart from the papers."
        )

    def bundles(self) -> str:
        """List the MONAI Bundles in the folder bundles/ of the repository.

        Example:
            medmixers list bundles
        """
        from medmixers.bundles.catalog import BUNDLES

        return table((name, row.network, row.version) for name, row in sorted(BUNDLES.items()))

    def nnunet_commands(self) -> str:
        """List the stock nnU-Net commands for `medmixers nnunet run`.

        Example:
            medmixers list nnunet_commands
        """
        from medmixers.nnunet.environment import stock_commands

        return "\n".join(stock_commands())

    def options(self, network: str) -> str:
        """List the options of a network with type, default and meaning.

        Args:
            network: a network of `medmixers list networks` or `medmixers list peers`.

        Example:
            medmixers list options token_unet
        """
        from medmixers.cli.options import network_options

        return table([("OPTION", "TYPE", "DEFAULT", "MEANING"), *network_options(network)])


def formats_of(network: str) -> tuple[str, ...]:
    """Formats of checkpoints that load into a network, besides this package's own."""
    starts = [start for start in WEIGHT_FORMATS if network.startswith(start)]
    return WEIGHT_FORMATS[max(starts, key=len)] if starts else ()


def table(rows: Iterable[tuple[Any, ...]]) -> str:
    """Rows as text, in columns."""
    cells = [tuple(map(str, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def _millions(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.2f}"
