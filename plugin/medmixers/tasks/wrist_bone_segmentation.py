"""GRAZPEDWRI-DX: 17 overlapping bones in wrist X-rays of children."""

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
