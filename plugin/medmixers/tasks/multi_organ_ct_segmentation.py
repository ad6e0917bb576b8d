"""Synapse (BTCV): the eight organs of the usual subset in abdominal CT."""

from medmixers.tasks.codes import (
    AORTA,
    GALLBLADDER,
    LEFT_KIDNEY,
    LIVER,
    PANCREAS,
    RIGHT_KIDNEY,
    SPLEEN,
    STOMACH,
)
from medmixers.tasks.palette import with_background
from medmixers.tasks.spec import TaskSpec
from medmixers.tasks.texts import LICENCE_PAGE, NOT_CLINICAL

MULTI_ORGAN_CT_SEGMENTATION = TaskSpec(
    name="multi_organ_ct_segmentation",
    title="Abdominal CT: eight organs (Synapse)",
    task="segmentation",
    modality="CT",
    spatial_dims=3,
    channels=("CT",),
    labels=with_background(
        "aorta",
        "gall_bladder",
        "kidney_left",
        "kidney_right",
        "liver",
        "pancreas",
        "spleen",
        "stomach",
    ),
    codes={
        "aorta": AORTA,
        "gall_bladder": GALLBLADDER,
        "kidney_left": LEFT_KIDNEY,
        "kidney_right": RIGHT_KIDNEY,
        "liver": LIVER,
        "pancreas": PANCREAS,
        "spleen": SPLEEN,
        "stomach": STOMACH,
    },
    spacing=(1.5, 1.5, 3.0),
    intensity="window",
    window=(-125.0, 275.0),
    licence=f"{LICENCE_PAGE} (Synapse syn3193805; a registration is needed)",
    citation=(
        "Landman B. et al. (2015). MICCAI multi-atlas labeling beyond the cranial vault - workshop and challenge. "
        "Synapse syn3193805."
    ),
    data_source="Multi-atlas labeling beyond the cranial vault, abdomen: 30 CT volumes, 18 to train and 12 to test",
    intended_use="Research on segmenting abdominal organs in contrast-enhanced CT.",
    limits=(
        "18 training volumes. Five of the thirteen structures (oesophagus, vena cava, portal and splenic veins, "
        "adrenal glands) count as background. The papers resize slices to 224 x 224; here volumes are resampled to "
        "1.5 x 1.5 x 3 mm. The test volumes are those that the field has compared on since 2021, so choices have "
        f"been made on them. {NOT_CLINICAL}"
    ),
)
