"""The command ``medmixers``: one thin line into each room."""

from __future__ import annotations

import sys
from typing import Any

Size = int | tuple[int, ...] | list[int]


class List:
    """What there is, by name."""

    def networks(self) -> str:
        """Networks that `create_network`, bundles and trainers take."""
        from medmixers.variants import NETWORKS

        return _table((name, row.task, row.source, row.summary) for name, row in sorted(NETWORKS.items()))

    def mixers(self) -> str:
        """Token mixers of the MetaFormer networks."""
        from medmixers.mixers import TOKEN_MIXERS

        return _table((name, row.summary) for name, row in sorted(TOKEN_MIXERS.items()))

    def tasks(self) -> str:
        """Tasks that bundles are made for."""
        from medmixers.tasks import TASKS

        return _table((name, row.task, row.title) for name, row in sorted(TASKS.items()))

    def bundles(self) -> str:
        """MONAI Bundles in the folder bundles/ of the repository."""
        from medmixers.bundling.catalog import BUNDLES

        return _table((name, row.network, row.version) for name, row in sorted(BUNDLES.items()))


class Demo:
    """Twelve simulated subjects from one real brain, and the report of `scripts/demo.sh`."""

    def data(self, out: str, cases: int = 12, held_out: int = 3, seed: int = 0) -> str:
        """Write the demo's data set in nnU-Net's raw format to the folder OUT."""
        from medmixers.datasets.brain_demo import write_brain_demo

        folder = write_brain_demo(out, cases=cases, held_out=held_out, seed=seed)
        return f"{cases} cases, {held_out} of them held out: {folder}"

    def report(self, run: str, pictures: bool = True) -> str:
        """Dice of the held-out predictions in the folder RUN, and a picture a case."""
        from medmixers.demo import report

        return str(report(run, pictures=pictures))


class Dataset:
    """Data sets in nnU-Net's raw format."""

    def check(self, folder: str) -> str:
        """Files, geometry, NaN and labels of every case; the first fault ends it in one line."""
        from medmixers.datasets.audit import audit_nnunet_dataset

        return str(audit_nnunet_dataset(folder))


class Explain:
    """What a trained network looks at."""

    def attention(self, model: str, image: str, out: str, fold: str | None = None, device: str = "cpu") -> str:
        """Token attention of an nnU-Net model folder on an image, as NIfTI in the image's geometry."""
        from medmixers.explain.nnunet_attention import nnunet_token_attention

        maps, _ = nnunet_token_attention(model, image, out=out, fold=fold, device=device)
        return f"{len(maps)} token attention maps of {image}: {out}"


class NnUNet:
    """nnU-Net v2 with this package's trainers."""

    def env(self) -> str:
        """Shell lines that let nnU-Net find the trainers: eval "$(medmixers nnunet env)"."""
        from medmixers.nnunet.environment import export_lines

        return export_lines()

    def run(self, command: str, *arguments: Any) -> None:
        """Run a stock nnU-Net command with the trainers in its reach."""
        from medmixers.nnunet.environment import run_stock_command

        raise SystemExit(run_stock_command(command, *arguments))


class MedMixers:
    """Token mixers for medical imaging: networks for nnU-Net v2 and MONAI."""

    def __init__(self) -> None:
        self.list = List()
        self.demo = Demo()
        self.dataset = Dataset()
        self.explain = Explain()
        self.nnunet = NnUNet()

    def profile(
        self,
        name: str,
        size: Size = (96, 96, 96),
        in_channels: int = 1,
        out_channels: int = 2,
        repeats: int = 5,
        threads: int = 1,
        device: str = "cpu",
        **options: Any,
    ) -> str:
        """Parameters, MACs, latency and peak memory of one forward pass.

        Args:
            name: a network of `medmixers list networks`.
            size: of the image in voxels, as 224,224 or 96,96,96.
            in_channels: of the image.
            out_channels: of the logits.
            repeats: timed passes.
            threads: of the CPU.
            device: as torch names it.
            options: of the network, as --mixer grouped_conv --kernel_size 7.
        """
        import torch

        from medmixers.study.profiling import profile_network

        torch.set_num_threads(threads)
        voxels = (size,) if isinstance(size, int) else tuple(size)
        return str(
            profile_network(
                name,
                size=voxels,
                in_channels=in_channels,
                out_channels=out_channels,
                repeats=repeats,
                device=device,
                **options,
            )
        )


def _table(rows: Any) -> str:
    cells = [tuple(map(str, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def main() -> None:
    """Entry point. Bad input ends in one line on stderr and exit status 2."""
    arguments = sys.argv[1:]
    try:
        if arguments[:2] == ["nnunet", "run"] and len(arguments) > 2:
            NnUNet().run(*arguments[2:])  # past fire, which would take nnU-Net's own -flags for ours
        import fire

        fire.Fire(MedMixers, command=arguments, name="medmixers")
    except (ValueError, OSError, ImportError) as error:
        print(f"medmixers: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
