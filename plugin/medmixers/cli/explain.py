"""``medmixers explain``: maps of a trained network's attention."""

from __future__ import annotations

from medmixers.cli.device import usable_device
from medmixers.progress import steps


class Explain:
    """Show which parts of an image a trained network attends to."""

    def attention(
        self,
        model: str,
        image: str,
        out: str,
        fold: str | None = None,
        checkpoint: str | None = None,
        device: str = "cpu",
    ) -> str:
        """Write token attention of an nnU-Net model or a bundle on images.

        Several channels of a case are named as in nnU-Net: CASE_0000.nii.gz, CASE_0001.nii.gz.

        Args:
            model: folder TRAINER__PLANS__CONFIGURATION in nnUNet_results, or of a bundle; of a network with tokens.
            image: NIfTI file of the case (its first channel), or a folder of cases.
            out: NIfTI file to write, in the geometry of the image: 4D, one volume per token. A folder for a folder.
            fold: fold of an nnU-Net model's weights, 0 or all; by default the first one there.
            checkpoint: file name in the fold, checkpoint_final.pth by default; for a bundle a file of weights.
            device: cpu, cuda, cuda:1 or mps.

        Example:
            medmixers explain attention MODEL images/case_0000.nii.gz attention.nii.gz --fold 0
        """
        with steps("explain attention") as announce:
            announce("load torch")
            from medmixers.explain.attention import write_attention

            return write_attention(
                model, image, out, fold=fold, checkpoint=checkpoint, device=usable_device(device), announce=announce
            )
