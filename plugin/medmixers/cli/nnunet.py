"""``medmixers nnunet``: nnU-Net v2 with this package's networks and trainers."""

from __future__ import annotations

from typing import Any

from medmixers.cli.commands import Size
from medmixers.progress import steps


class NnUNet:
    """Plan, train and share nnU-Net v2 models with our networks and trainers."""

    def env(self, cpu: bool = False) -> str:
        """Print shell lines that let nnU-Net find our trainers.

        Evaluate them once per shell.

        Args:
            cpu: add glibc's allocator settings, which make training on a Linux CPU 1.2 to 2 times faster.

        Example:
            eval "$(medmixers nnunet env --cpu)"
        """
        from medmixers.nnunet.environment import export_lines

        return export_lines(cpu=cpu)

    def run(self, command: str, *arguments: Any) -> None:
        """Run a stock nnU-Net command that finds our trainers.

        This needs no `medmixers nnunet env`. `medmixers list nnunet_commands` lists the commands.

        Args:
            command: name of the stock command.
            arguments: of that command, handed on unchanged; -h shows its own help.

        Example:
            medmixers nnunet run nnUNetv2_train 900 3d_fullres 0 -tr nnUNetTrainerTokenUNet -device cpu
        """
        from medmixers.nnunet.environment import run_stock_command

        raise SystemExit(run_stock_command(command, *arguments))

    def plan(
        self,
        dataset: str,
        network: str,
        gpu_memory_gb: float = 8.0,
        plans_name: str | None = None,
        patch_size: Size | None = None,
        **options: Any,
    ) -> str:
        """Write plans for one of our networks, for nnUNetv2_train -p.

        The plans share the stock preprocessed data where that is possible, and the output says which data they use.

        Args:
            dataset: name or id of a data set that nnUNetv2_plan_and_preprocess has seen.
            network: a segmentation network of `medmixers list networks` or of another library (`medmixers list peers`).
            gpu_memory_gb: GPU memory of a training in GiB; patch and batch size are planned to fit it.
            plans_name: name for -p; by default made of the network and its options.
            patch_size: patch size in voxels, 2D or 3D, instead of nnU-Net's search.
            options: of the network, as `medmixers list options NETWORK` lists them.

        Example:
            medmixers nnunet plan -d Dataset900_BrainTissue --network metaformer_segformer_s12 --mixer grouped_conv
        """
        with steps("nnunet plan") as announce:
            announce("load torch and nnU-Net")
            from medmixers.nnunet.planner import plan_network

            return plan_network(
                dataset,
                network,
                gpu_memory_gb=gpu_memory_gb,
                plans_name=plans_name,
                patch_size=patch_size,
                announce=announce,
                **options,
            )

    def portable(self, model: str, out: str | None = None, checkpoint: str = "checkpoint_final.pth") -> str:
        """Copy a trained model so that it predicts without nnUNet_extTrainer.

        The copy is kept only if it predicts the same bytes for a synthetic image.

        Args:
            model: folder TRAINER__PLANS__CONFIGURATION in nnUNet_results.
            out: folder to write, which must not exist; by default MODEL_portable in the working directory.
            checkpoint: file name of the weights in each fold, such as checkpoint_best.pth.

        Example:
            medmixers nnunet portable MODEL --out shared_model
        """
        with steps("nnunet portable") as announce:
            announce("load torch and nnU-Net")
            from medmixers.nnunet.portable import make_portable

            return make_portable(model, out=out, checkpoint=checkpoint, announce=announce)

    def to_bundle(self, model: str, out: str, checkpoint: str = "checkpoint_final.pth") -> str:
        """Write a MONAI Bundle that predicts as nnUNetv2_predict does.

        The model may be ours or a stock one.

        Args:
            model: folder TRAINER__PLANS__CONFIGURATION in nnUNet_results.
            out: folder to write, which must not exist; its last part is the bundle's name.
            checkpoint: file name of the weights in each fold, such as checkpoint_best.pth.

        Example:
            medmixers nnunet to_bundle MODEL --out my_bundle
        """
        with steps("nnunet to_bundle") as announce:
            announce("load torch and nnU-Net")
            from medmixers.nnunet.bundle import write_nnunet_bundle

            return write_nnunet_bundle(model, out=out, checkpoint=checkpoint, announce=announce)

    def doctor(self) -> None:
        """Check versions, folders, variables, trainers and the device.

        The exit status is 1 if anything is wrong.

        Example:
            medmixers nnunet doctor
        """
        with steps("nnunet doctor") as announce:
            announce("load torch and nnU-Net")
            from medmixers.nnunet.doctor import examine

            findings = examine()
        print("\n".join(map(str, findings)))
        raise SystemExit(any(finding.is_wrong for finding in findings))
