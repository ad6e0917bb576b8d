"""``medmixers clinic``: predictions for clinical colleagues."""

from __future__ import annotations

from medmixers.cli.device import usable_device
from medmixers.progress import steps


class Clinic:
    """Predict in the formats of a hospital. Research only: no network here is a medical device."""

    def segment(
        self,
        model: str,
        series: str,
        out: str,
        series_uid: str | None = None,
        codes: str | None = None,
        checkpoint: str | None = None,
        device: str | None = None,
        runtime: str = "torch",
    ) -> str:
        """Segment a DICOM series and write a DICOM SEG.

        A bundle contains code that runs: take it from people you trust.

        Args:
            model: folder or zip of a bundle, or folder TRAINER__PLANS__CONFIGURATION in nnUNet_results.
            series: folder that holds the series, at any depth, or a multi-frame file.
            out: DICOM file to write, .dcm.
            series_uid: SeriesInstanceUID, where the folder holds several; of each channel as UID,UID.
            codes: YAML file that says what each label is, in DICOM's codes.
            checkpoint: file of a bundle's weights; for nnU-Net a file name in the fold.
            device: cpu, cuda, cuda:1 or mps; by default a GPU where there is one.
            runtime: torch, or openvino, which is faster on a CPU.

        Example:
            medmixers clinic segment my_bundle_v0.1.0.zip SERIES segmentation.dcm
        """
        with steps("clinic segment") as announce:
            announce("read the model")
            from medmixers.clinic.segment import segment_series

            return segment_series(
                model,
                series,
                out,
                series_uid=[uid.strip() for uid in series_uid.split(",")] if series_uid else (),
                codes=codes,
                checkpoint=checkpoint,
                device=None if device is None else usable_device(device),
                runtime=runtime,
                announce=announce,
            )
