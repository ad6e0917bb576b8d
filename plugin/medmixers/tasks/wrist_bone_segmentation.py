"""GRAZPEDWRI-DX: 17 overlapping bones in wrist X-rays of children."""

from medmixers.tasks.codes import own, sct
from medmixers.tasks.palette import coloured
from medmixers.tasks.spec import TaskSpec
from medmixers.tasks.texts import LICENCE_PAGE, NOT_CLINICAL

WRIST_BONE_SEGMENTATION = TaskSpec(
    name="wrist_bone_segmentation",
    title="Wrist X-ray of a child: 17 bones (GRAZPEDWRI-DX)",
    task="segmentation",
    modality="X-ray",
    spatial_dims=2,
    channels=("X-ray",),
    labels=coloured(
        "epiphyse_radius",
        "epiphyse_ulna",
        "os_capitatum",
        "os_hamatum",
        "os_lunatum",
        "os_pisiforme",
        "os_scaphoideum",
        "os_trapezium",
        "os_trapezoideum",
        "os_triquetrum",
        "ossa_metacarpalia_i",
        "ossa_metacarpalia_ii",
        "ossa_metacarpalia_iii",
        "ossa_metacarpalia_iv",
        "ossa_metacarpalia_v",
        "radius",
        "ulna",
    ),
    # No side: right hands are mirrored.
    codes={
        "epiphyse_radius": own("EPIPHYSE_RADIUS", "Distal epiphysis of radius"),
        "epiphyse_ulna": own("EPIPHYSE_ULNA", "Distal epiphysis of ulna"),
        "os_capitatum": own("OS_CAPITATUM", "Capitate"),
        "os_hamatum": own("OS_HAMATUM", "Hamate"),
        "os_lunatum": own("OS_LUNATUM", "Lunate"),
        "os_pisiforme": own("OS_PISIFORME", "Pisiform"),
        "os_scaphoideum": sct("30518006", "Scaphoid"),
        "os_trapezium": own("OS_TRAPEZIUM", "Trapezium"),
        "os_trapezoideum": own("OS_TRAPEZOIDEUM", "Trapezoid"),
        "os_triquetrum": own("OS_TRIQUETRUM", "Triquetrum"),
        "ossa_metacarpalia_i": own("METACARPALE_I", "First metacarpal"),
        "ossa_metacarpalia_ii": own("METACARPALE_II", "Second metacarpal"),
        "ossa_metacarpalia_iii": own("METACARPALE_III", "Third metacarpal"),
        "ossa_metacarpalia_iv": own("METACARPALE_IV", "Fourth metacarpal"),
        "ossa_metacarpalia_v": own("METACARPALE_V", "Fifth metacarpal"),
        "radius": sct("62413002", "Radius"),
        "ulna": sct("23416004", "Ulna"),
    },
    multi_label=True,
    image_size=(224, 384),
    intensity="unit",
    group_by="patient",
    licence=LICENCE_PAGE,
    citation=(
        "Nagy E., Janisch M., Hrzic F., Sorantin E., Tschauner S. (2022). A pediatric wrist trauma X-ray dataset "
        "(GRAZPEDWRI-DX) for machine learning. Scientific Data 9, 222. Masks: Keuth, Kaftan, Heinrich (2025). "
        "Shaken or Stirred? An Analysis of MetaFormer's Token Mixing for Medical Imaging."
    ),
    data_source=(
        "GRAZPEDWRI-DX, the 63 frontal X-rays with CVAT polygons in multimodallearning/MetaFormerMedImaging, "
        "43 to train and 20 to test"
    ),
    intended_use="Research on segmenting small overlapping bones in frontal wrist X-rays of children.",
    limits=(
        "43 training images of children after an injury in one hospital. Right hands are mirrored to left ones "
        "(image and masks), so images must show, or be mirrored to, a left hand. A bone that is not drawn, as one "
        f"not yet ossified, has an empty mask. {NOT_CLINICAL}"
    ),
)
