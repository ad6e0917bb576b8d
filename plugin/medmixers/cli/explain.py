"""``medmixers explain``: what a trained network looks at, and how far it sees."""

from __future__ import annotations

from typing import Any

from medmixers.cli.commands import Size
from medmixers.cli.device import usable_device
from medmixers.errors import InputError
from medmixers.progress import steps


class Explain:
    """Show which parts of an image a trained network looks at, and how far it sees."""

    def attention(
        self,
        model: str,
        image: str,
        out: str,
        voxel: Size | None = None,
        labels: str | None = None,
        fold: str | None = None,
        checkpoint: str | None = None,
        device: str = "cpu",
    ) -> str:
        """Write token maps on images, or with --voxel attention of one voxel.

        Token maps show where each token of a Token-UNet comes from (TokenLearner's A) and where it goes (TokenFuser's
        B). The command prints how many tokens are near-copies, and with --labels which token looks at which label.
        Several channels of a case are named as in nnU-Net: CASE_0000.nii.gz, CASE_0001.nii.gz.

        Args:
            model: folder TRAINER__PLANS__CONFIGURATION in nnUNet_results, a bundle, or its zip. Its network has tokens.
                With --voxel it has local_attention, dilated_attention or global_attention in a stage.
            image: NIfTI file or picture of the case (its first channel), or a folder of cases.
            out: NIfTI file to write, in the geometry of the image, 4D, with a picture next to it; or a picture (.png,
                .jpg) alone. A folder for a folder.
            voxel: voxel of the image file, X,Y,Z (X,Y of a picture) counted from 0; its attention in every block is
                written.
            labels: label file of the case, or a folder of them, named CASE as in labelsTr.
            fold: fold of an nnU-Net model's weights, 0 or all; by default the first one there.
            checkpoint: file name in the fold, checkpoint_final.pth by default; for a bundle a file of weights.
            device: cpu, cuda, cuda:1 or mps.

        Example:
            medmixers explain attention MODEL images/case_0000.nii.gz attention.nii.gz --voxel 60,48,30
        """
        if voxel is not None and labels is not None:
            raise InputError("--labels is for token maps, without --voxel")
        with steps("explain attention") as announce:
            announce("load torch")
            from medmixers.explain.commands import write_attention, write_block_attention

            options: dict[str, Any] = {"fold": fold, "checkpoint": checkpoint, "device": usable_device(device)}
            if voxel is None:
                return write_attention(model, image, out, labels=labels, **options, announce=announce)
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
            model: folder TRAINER__PLANS__CONFIGURATION in nnUNet_results, a bundle, or its zip.
            image: NIfTI file or picture of the case, the first of its channels.
            out: NIfTI file to write, in the geometry of the image, with a picture next to it; or a picture alone.
            voxel: voxel of the image file, X,Y,Z (X,Y of a picture) counted from 0.
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

    def activation(
        self,
        model: str,
        image: str,
        out: str,
        method: str = "gradcam",
        label: str | None = None,
        voxel: Size | None = None,
        layer: str | None = None,
        mask_size: int | None = None,
        fold: str | None = None,
        checkpoint: str | None = None,
        device: str = "cpu",
    ) -> str:
        """Write where the evidence for a class lies, by MONAI's GradCAM, GradCAMpp or OcclusionSensitivity.

        Of a segmentation network, the window around --voxel is explained: the evidence for the voxels that the network
        gives to the class.

        Args:
            model: folder TRAINER__PLANS__CONFIGURATION in nnUNet_results, a bundle, or its zip.
            image: NIfTI file or picture of the case, the first of its channels.
            out: NIfTI file to write, in the geometry of the image, with a picture next to it; or a picture alone.
            method: gradcam, gradcampp or occlusion (which needs about 11 passes per axis).
            label: name or number of the class; by default the one that the network finds in the image, or at the voxel.
            voxel: voxel of the image file, X,Y,Z (X,Y of a picture) counted from 0; the image's centre by default.
            layer: module with the feature map that is weighed. By default a classifier's last one, and a segmentation
                network's last one at its lowest resolution.
            mask_size: edge of the hidden block of occlusion in voxels; an eighth of the window by default.
            fold: fold of an nnU-Net model's weights, 0 or all; by default the first one there.
            checkpoint: file name in the fold, checkpoint_final.pth by default; for a bundle a file of weights.
            device: cpu, cuda, cuda:1 or mps.

        Example:
            medmixers explain activation MODEL picture.jpg evidence.png --label melanoma
        """
        with steps("explain activation") as announce:
            announce("load torch")
            from medmixers.explain.commands import write_activation

            return write_activation(
                model, image, out, method=method, label=label, voxel=voxel, layer=layer, mask_size=mask_size,
                fold=fold, checkpoint=checkpoint, device=usable_device(device), announce=announce,
            )  # fmt: skip
