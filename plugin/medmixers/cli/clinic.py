"""``medmixers clinic``: predictions for clinical colleagues."""

from __future__ import annotations

import os

from medmixers.cli.device import usable_device
from medmixers.progress import steps


class Clinic:
    """Predict in the formats of a hospital, and say how sure that is. Research only: not a medical device."""

    def segment(
        self,
        model: str,
        series: str,
        out: str,
        series_uid: str | None = None,
        codes: str | None = None,
        secondary_capture: str | None = None,
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
            secondary_capture: folder for a second series, of RGB pictures of the slices with outlines.
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
                secondary_capture=secondary_capture,
                checkpoint=checkpoint,
                device=None if device is None else usable_device(device),
                runtime=runtime,
                announce=announce,
            )

    def classify(
        self,
        model: str,
        images: str,
        out: str,
        series_uid: str | None = None,
        checkpoint: str | None = None,
        device: str | None = None,
        runtime: str = "torch",
    ) -> str:
        """Classify a DICOM image or series and write a DICOM SR.

        A bundle contains code that runs: take it from people you trust.

        Args:
            model: folder or zip of a bundle.
            images: DICOM file, or folder that holds one image or one series at any depth.
            out: DICOM file to write, .dcm.
            series_uid: SeriesInstanceUID, where the folder holds several.
            checkpoint: file of weights in place of the bundle's.
            device: cpu, cuda, cuda:1 or mps; by default a GPU where there is one.
            runtime: torch, or openvino, which is faster on a CPU.

        Example:
            medmixers clinic classify my_bundle_v0.1.0.zip IMAGE.dcm report.dcm
        """
        with steps("clinic classify") as announce:
            announce("read the model")
            from medmixers.clinic.classify import classify_images

            return classify_images(
                model,
                images,
                out,
                series_uid=series_uid,
                checkpoint=checkpoint,
                device=None if device is None else usable_device(device),
                runtime=runtime,
                announce=announce,
            )

    def slide(
        self,
        model: str,
        slide: str,
        out: str,
        mpp: float | None = None,
        tissue_threshold: float | None = None,
        all_windows: bool = False,
        checkpoint: str | None = None,
        device: str | None = None,
    ) -> str:
        """Segment a whole histology slide and write a tiled TIFF of labels.

        Windows of bare glass are skipped and counted; everything coloured or dark is predicted, pen marks too.
        Memory does not grow with the slide: TMPDIR holds one byte per pixel, and one band of windows.
        A bundle contains code that runs: take it from people you trust.

        Args:
            model: folder or zip of a bundle that segments RGB pictures.
            slide: file that OpenSlide reads: .svs, .ndpi, .mrxs, a tiled .tif and others.
            out: TIFF to write, .tif or .tiff.
            mpp: microns per pixel that the network sees; the bundle's by default.
            tissue_threshold: saturation from 0 to 1 that bare glass does not exceed, 0.03 by default.
            all_windows: predict windows without tissue too.
            checkpoint: file of weights in place of the bundle's.
            device: cpu, cuda, cuda:1 or mps; by default a GPU where there is one.

        Example:
            medmixers clinic slide my_bundle_v0.1.0.zip slide.svs labels.tif
        """
        with steps("clinic slide") as announce:
            announce("read the model")
            from medmixers.clinic.slide import segment_slide

            return segment_slide(
                model,
                slide,
                out,
                mpp=mpp,
                tissue_threshold=tissue_threshold,
                all_windows=all_windows,
                checkpoint=checkpoint,
                device=None if device is None else usable_device(device),
                announce=announce,
            )

    def calibrate(
        self,
        model: str,
        dataset: str,
        out: str | None = None,
        ensemble: str | None = None,
        use_mirroring: bool = False,
        fold: int | None = None,
        device: str | None = None,
    ) -> str:
        """Fit a model's probabilities to its validation cases, and describe its training images.

        Temperature scaling. A reliability diagram is written next to the calibration, as .svg. A model that has learned
        nothing is refused.

        Args:
            model: folder or zip of a bundle with weights, or folder TRAINER__PLANS__CONFIGURATION of nnU-Net. Several,
                as MODEL,MODEL, are averaged.
            dataset: data set of the training, in nnU-Net's raw format or with datalist.json.
            out: JSON file to write; models/calibration.json in the bundle's folder by default, which pack takes along,
                or calibration.json in nnU-Net's.
            ensemble: files of weights for one model, as FILE,FILE, in place of its own.
            use_mirroring: average mirrored copies too, as the predictions will.
            fold: fold of the split, where it is not the bundle's; by default all folds of a model of nnU-Net.
            device: cpu, cuda, cuda:1 or mps; by default a GPU where there is one.

        Example:
            medmixers clinic calibrate my_bundle nnUNet_raw/Dataset900_BrainTissue --use_mirroring
        """
        with steps("clinic calibrate") as announce:
            announce("read the models")
            from medmixers.clinic.uncertainty.calibrate import write_calibration

            return write_calibration(
                _listed(model),
                dataset,
                out=out,
                ensemble=_listed(ensemble),
                use_mirroring=use_mirroring,
                fold=fold,
                device=None if device is None else usable_device(device),
                announce=announce,
            )

    def uncertainty(
        self,
        model: str,
        images: str,
        out: str,
        ensemble: str | None = None,
        use_mirroring: bool = False,
        calibration: str | None = None,
        device: str | None = None,
    ) -> str:
        """Predict images and say how sure that is, and whether they are like the training data.

        Writes labels, maps of entropy and of mutual information, and a JSON file per case. Each structure has a volume
        with an interval and a predicted Dice. They mean something for a calibrated model only.

        Args:
            model: folder or zip of a bundle with weights, or folder TRAINER__PLANS__CONFIGURATION of nnU-Net. Several,
                as MODEL,MODEL, are averaged.
            images: image, DICOM series, folder of these, or data set, whose imagesTs is predicted.
            out: folder to write.
            ensemble: files of weights for one model, as FILE,FILE, in place of its own.
            use_mirroring: average mirrored copies too.
            calibration: JSON file of clinic calibrate; the bundle's own by default.
            device: cpu, cuda, cuda:1 or mps; by default a GPU where there is one.

        Example:
            medmixers clinic uncertainty seed_0.zip,seed_1.zip IMAGES predictions --calibration calibration.json
        """
        with steps("clinic uncertainty") as announce:
            announce("read the models")
            from medmixers.clinic.uncertainty.command import write_uncertainty

            return write_uncertainty(
                _listed(model),
                images,
                out,
                ensemble=_listed(ensemble),
                use_mirroring=use_mirroring,
                calibration=calibration,
                device=None if device is None else usable_device(device),
                announce=announce,
            )

    def report(
        self, predictions: str, images: str, out: str, viewer: str | None = None, explanation: str | None = None
    ) -> str:
        """Write one offline HTML page about predictions of clinic uncertainty, for people.

        It shows the images with outlines in three planes, volumes with intervals, where the model is unsure, and what
        the model was trained on. It holds no text of the image files, but the names of the cases.

        Args:
            predictions: folder that clinic uncertainty wrote.
            images: image, or folder of images; each is found again by its SHA-256.
            out: page to write, .html.
            viewer: file niivue.umd.js of NiiVue, to scroll through volumes; without it the page runs no script.
            explanation: NIfTI files of medmixers explain, as FILE,FILE, or a folder of them; drawn on their images.

        Example:
            medmixers clinic report predictions IMAGES report.html
        """
        with steps("clinic report") as announce:
            announce("read the predictions")
            from medmixers.clinic.report.command import write_report

            return write_report(
                predictions, images, out, viewer=viewer, explanation=_listed(explanation), announce=announce
            )


def _listed(paths: str | None) -> list[str]:
    """Paths with commas between; a path that is there may hold commas itself."""
    if not paths:
        return []
    return [paths] if os.path.exists(paths) else [each.strip() for each in paths.split(",") if each.strip()]
