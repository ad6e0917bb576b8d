"""``medmixers explain``: what a trained network attends to, and how far it sees."""

from __future__ import annotations

from typing import Any

from medmixers.cli.commands import Size
from medmixers.cli.device import usable_device
from medmixers.progress import steps


class Explain:
    """Show which parts of an image a trained network attends to, and how far it sees."""

    def attention(
        self,
        model: str,
        image: str,
        out: str,
        voxel: Size | None = None,
        fold: str | None = None,
        checkpoint: str | None = None,
        device: str = "cpu",
    ) -> str:
        """Write token attention on images, or with --voxel attention of one voxel.

        Several channels of a case are named as in nnU-Net: CASE_0000.nii.gz, CASE_0001.nii.gz.

        Args:
            model: folder TRAINER__PLANS__CONFIGURATION in nnUNet_results, or of a bundle. Its network has tokens. With
                --voxel it has local_attention, dilated_attention or global_attention in a stage.
            image: NIfTI file of the case (its first channel), or a folder of cases.
            out: NIfTI file to write, in the geometry of the image: 4D, one volume per token or block. A folder for a
                folder. With --voxel a picture is written next to it.
            voxel: voxel of the image file, X,Y,Z counted from 0; its attention in every block is written.
            fold: fold of an nnU-Net model's weights, 0 or all; by default the first one there.
            checkpoint: file name in the fold, checkpoint_final.pth by default; for a bundle a file of weights.
            device: cpu, cuda, cuda:1 or mps.

        Example:
            medmixers explain attention MODEL images/case_0000.nii.gz attention.nii.gz --voxel 60,48,30
        """
        with steps("explain attention") as announce:
            announce("load torch")
            from medmixers.explain.commands import write_attention, write_block_attention

            options: dict[str, Any] = {"fold": fold, "checkpoint": checkpoint, "device": usable_device(device)}
            if voxel is None:
                return write_attention(model, image, out, **options, announce=announce)
            return write_block_attention(model, image, out, voxel, **options, announce=announce)

    def receptive_field(
        self,
        model: str,
        image: str,
        out: str,
        voxel: Size,
        fold: str | None = None,
        checkpoint: str | None = None,
        device: str = "cpu",
    ) -> str:
        """Write the effective receptive field at one voxel.

        It shows how strongly each voxel of the image moves the label: the gradient of the voxel's largest logit (Luo et
        al. 2016). The command prints the distances within which 50, 95 and 99 percent of it lie. Compare models of
        several token mixers and kernels at the same voxel.

        Args:
            model: folder TRAINER__PLANS__CONFIGURATION in nnUNet_results, or of a bundle.
            image: NIfTI file of the case, the first of its channels.
            out: NIfTI file to write, in the geometry of the image. A picture is written next to it.
            voxel: voxel of the image file, X,Y,Z counted from 0.
            fold: fold of an nnU-Net model's weights, 0 or all; by default the first one there.
            checkpoint: file name in the fold, checkpoint_final.pth by default; for a bundle a file of weights.
            device: cpu, cuda, cuda:1 or mps.

        Example:
            medmixers explain receptive_field MODEL images/case_0000.nii.gz field.nii.gz --voxel 60,48,30
        """
        with steps("explain receptive_field") as announce:
            announce("load torch")
            from medmixers.explain.commands import write_receptive_field

            return write_receptive_field(
                model, image, out, voxel, fold=fold, checkpoint=checkpoint, device=usable_device(device),
                announce=announce,
            )  # fmt: skip
