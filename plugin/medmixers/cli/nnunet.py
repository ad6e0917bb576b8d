"""``medmixers nnunet ...``: thin lines into this room. No torch before a command needs it."""

from __future__ import annotations

from typing import Any

Size = tuple[int, ...]


class NnUNet:
    """nnU-Net v2 with this package's networks and trainers."""

    def env(self) -> str:
        """Shell lines that let nnU-Net find the trainers: eval "$(medmixers nnunet env)"."""
        from medmixers.nnunet.environment import export_lines

        return export_lines()

    def run(self, command: str, *arguments: Any) -> None:
        """Run a stock nnU-Net command with the trainers in its reach."""
        from medmixers.nnunet.environment import run_stock_command

        raise SystemExit(run_stock_command(command, *arguments))

    def plan(
        self,
        dataset: int,
        network: str,
        gpu_memory_gb: float = 8.0,
        plans_name: str | None = None,
        patch_size: Size | None = None,
        **options: Any,
    ) -> str:
        """Write plans for a network beside the stock plans of a dataset, for nnUNetv2_train -p.

        Args:
            dataset: number of a dataset that nnUNetv2_plan_and_preprocess has seen.
            network: a segmentation network of `medmixers list networks`.
            gpu_memory_gb: that training may take, in GiB; patch and batch size are planned for it.
            plans_name: for -p; the default is made of the network and its options.
            patch_size: in voxels, as 512,512 or 128,128,128, instead of nnU-Net's search.
            options: of the network, as --mixer grouped_conv --kernel_size 5 --stem_stride 2.
        """
        from medmixers.nnunet.planner import plan_network

        return plan_network(
            dataset, network, gpu_memory_gb=gpu_memory_gb, plans_name=plans_name, patch_size=patch_size, **options
        )

    def portable(self, model: str, out: str | None = None) -> str:
        """A copy of a trained model folder that predicts without nnUNet_extTrainer, proved on a made image.

        Args:
            model: the folder TRAINER__PLANS__CONFIGURATION in nnUNet_results.
            out: the new folder; by default MODEL_portable here.
        """
        from medmixers.nnunet.portable import make_portable

        return make_portable(model, out=out)

    def to_bundle(self, model: str, out: str) -> str:
        """A MONAI Bundle of a trained model folder, ours or a stock one, that predicts what nnUNetv2_predict does.

        Args:
            model: the folder TRAINER__PLANS__CONFIGURATION in nnUNet_results.
            out: the bundle's folder, which takes its name from it.
        """
        from medmixers.nnunet.bundle import write_nnunet_bundle

        return write_nnunet_bundle(model, out=out)

    def doctor(self) -> None:
        """Check versions, folders, variables and trainers; exit status 1 if anything is wrong."""
        from medmixers.nnunet.doctor import examine

        findings = examine()
        print("\n".join(map(str, findings)))
        raise SystemExit(any(finding.advice for finding in findings))
