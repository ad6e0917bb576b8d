"""An application of the MONAI Deploy App SDK: DICOM files in, the operator that runs bundles, a DICOM SEG out.

python deploy_app.py BUNDLE SERIES OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application
from monai.deploy.core.domain import Image
from monai.deploy.core.io_type import IOType
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
from monai.deploy.operators.dicom_seg_writer_operator import DICOMSegmentationWriterOperator, SegmentDescription
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator
from monai.deploy.operators.dicom_series_to_volume_operator import DICOMSeriesToVolumeOperator
from monai.deploy.operators.monai_bundle_inference_operator import IOMapping, MonaiBundleInferenceOperator
from pydicom.sr.codedict import codes

BUNDLE, SERIES, OUT = map(Path, sys.argv[1:4])
LABELS = ("grey_matter", "white_matter")


def segment(label: str) -> SegmentDescription:
    return SegmentDescription(
        segment_label=label,
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=codes.SCT.Tissue,
        algorithm_name=BUNDLE.name,
        algorithm_version="1",
    )


class BundleApp(Application):
    def compose(self) -> None:
        loader = DICOMDataLoaderOperator(self, CountCondition(self, 1), input_folder=SERIES, name="loader")
        selector = DICOMSeriesSelectorOperator(self, rules="", name="selector")
        volume = DICOMSeriesToVolumeOperator(self, name="volume")
        bundle = MonaiBundleInferenceOperator(
            self,
            app_context=AppContext({}),
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            bundle_path=BUNDLE,
            name="bundle",
        )
        writer = DICOMSegmentationWriterOperator(
            self, segment_descriptions=list(map(segment, LABELS)), output_folder=OUT, name="writer"
        )
        series = "study_selected_series_list"
        self.add_flow(loader, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, volume, {(series, series)})
        self.add_flow(volume, bundle, {("image", "image")})
        self.add_flow(selector, writer, {(series, series)})
        self.add_flow(bundle, writer, {("pred", "seg_image")})


BundleApp([sys.argv[0]]).run()
