"""Write class probabilities as one DICOM SR: an Imaging Measurement Report (PS3.16, TID 1500) with highdicom."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medmixers.clinic.model import ClassificationModel
from medmixers.files import file_digest, written_whole
from medmixers.images.dicom_seg import LONGEST, MANUFACTURER, SERIES_NUMBER
from medmixers.tasks.codes import OWN_SCHEME

# LOINC's names of examinations, by DICOM's modality; of others, the general one
PROCEDURES = {
    "CT": ("25045-6", "CT unspecified body region"),
    "MR": ("25056-3", "MR unspecified body region"),
    **dict.fromkeys(("CR", "DX"), ("43468-8", "XR unspecified body region")),
}
ANY_PROCEDURE = ("18748-4", "Diagnostic imaging study")


def write_report(
    out: Path, probabilities: Mapping[str, float], sources: Sequence[Any], modality: str, model: ClassificationModel
) -> None:
    """Write the report of a case. Attributes of patient and study are those of the images, and no others.

    Args:
        out: the file.
        probabilities: class -> its probability, in the order of the classes.
        sources: data sets of the images, as :func:`medmixers.images.dicom_seg.source_headers` returns them.
        modality: of the images, as DICOM names it.
        model: what classified them.
    """
    import highdicom as hd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = hd.sr.ComprehensiveSR(
            evidence=list(sources),
            content=_content(probabilities, sources, modality, model),
            series_instance_uid=hd.UID(),
            series_number=(SERIES_NUMBER + 1 + int(sources[0].get("SeriesNumber") or 0)) % 2**31,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer=MANUFACTURER,
            is_complete=True,
            specific_character_set="ISO_IR 192",
        )
        report.SeriesDescription = f"{model.name[: LONGEST - 16]}, research only"
        report.ManufacturerModelName = model.name[:LONGEST]
        report.SoftwareVersions = f"medmixers {version('medmixers')}"
        with written_whole(out) as partial:
            report.save_as(partial)


def _content(
    probabilities: Mapping[str, float], sources: Sequence[Any], modality: str, model: ClassificationModel
) -> Any:
    """The tree of the report: a group for each class, with its probability and the decision."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=hd.UID(),
        name=model.name[:LONGEST],
        manufacturer_name=MANUFACTURER,
        model_name=model.name[:LONGEST],
        serial_number=file_digest(model.weights),
    )
    observer = hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    algorithm = hd.sr.AlgorithmIdentification(
        name=model.name[:LONGEST], version=model.version, family=codes.cid7162.ArtificialIntelligence
    )
    images = [hd.sr.SourceImageForMeasurementGroup(each.SOPClassUID, each.SOPInstanceUID) for each in sources]
    decided = model.decided(probabilities)
    groups = [
        hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier=name[:LONGEST]),
            finding_type=hd.sr.CodedConcept(f"CLASS{number}", OWN_SCHEME, name.replace("_", " ")[:LONGEST]),
            algorithm_id=algorithm,
            source_images=images,
            measurements=[hd.sr.Measurement(codes.DCM.Probability, probability, codes.UCUM.NoUnits)],
            qualitative_evaluations=[
                hd.sr.QualitativeEvaluation(
                    hd.sr.CodedConcept("DECISION", OWN_SCHEME, "Decision of the model"),
                    codes.SCT.Present if name in decided else codes.SCT.Absent,
                )
            ],
        )
        for number, (name, probability) in enumerate(probabilities.items())
    ]
    procedure = PROCEDURES.get(modality, ANY_PROCEDURE)
    return hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=hd.sr.CodedConcept(procedure[0], "LN", procedure[1]),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
