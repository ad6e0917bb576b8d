"""``medmixers explain``: maps of a trained network's attention."""

from __future__ import annotations

from medmixers.cli.device import usable_device
from medmixers.progress import steps


class Explain:
    """Show which parts of an image a trained network attends to."""

    def attention(self, model: str, image: str, out: str, fold: str | None = None, device: str = "cpu") -> str:
        """Write token attention of an nnU-Net model on an image.

        Args:
            model: folder TRAINER__PLANS__CONFIGURATION in nnUNet_results, of a network with tokens.
            image: NIfTI file of the case.
            out: NIfTI file to write, in the geometry of the image: 4D, one volume per token.
            fold: fold of the weights, 0 or all; by default the first one there.
            device: cpu, cuda, cuda:1 or mps.

        Example:
            medmixers explain attention MODEL images/case_0000.nii.gz attention.nii.gz --fold 0
        """
        with steps("explain attention") as announce:
            announce("load torch and nnU-Net")
            from medmixers.explain.nnunet_attention import nnunet_token_attention

            maps, _ = nnunet_token_attention(
                model, image, out=out, fold=fold, device=usable_device(device), announce=announce
            )
        return f"{len(maps)} token attention maps of {image}: {out}"
