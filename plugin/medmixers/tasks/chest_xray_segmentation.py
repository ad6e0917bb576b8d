"""JSRT: lungs, heart and clavicles, which overlap, in chest X-rays."""

from medmixers.tasks.codes import LEFT, RIGHT, sct
from medmixers.tasks.palette import coloured
from medmixers.tasks.spec import TaskSpec
from medmixers.tasks.texts import LICENCE_PAGE, NOT_CLINICAL

CHEST_XRAY_SEGMENTATION = TaskSpec(
    name="chest_xray_segmentation",
    title="Chest X-ray: lungs, heart and clavicles (JSRT)",
    task="segmentation",
    modality="X-ray",
    spatial_dims=2,
    channels=("X-ray",),
    labels=coloured("right_lung", "left_lung", "heart", "right_clavicle", "left_clavicle"),
    codes={
        "right_lung": sct("39607008", "Lung", side=RIGHT),
        "left_lung": sct("39607008", "Lung", side=LEFT),
        "heart": sct("80891009", "Heart"),
        "right_clavicle": sct("51299004", "Clavicle", side=RIGHT),
        "left_clavicle": sct("51299004", "Clavicle", side=LEFT),
    },
    multi_label=True,
    image_size=(256, 256),
    intensity="zscore",
    licence=f"{LICENCE_PAGE}; the images need a registration at db.jsrt.or.jp",
    citation=(
        "Shiraishi J. et al. (2000). Development of a digital image database for chest radiographs with and without "
        "a lung nodule. American Journal of Roentgenology 174(1), 71-74. Gaggion N. et al. (2023). Improving "
        "anatomical plausibility in medical image segmentation via hybrid graph neural networks. IEEE Transactions "
        "on Medical Imaging 42(2), 546-556. van Ginneken B., Stegmann M. B., Loog M. (2006). Segmentation of "
        "anatomical structures in chest radiographs. Medical Image Analysis 10(1), 19-40."
    ),
    data_source=(
        "JSRT database, 247 X-rays, 154 of them with a nodule, with the landmarks of "
        "ngaggion/Chest-xray-landmark-dataset, which has 246 of them"
    ),
    intended_use="Research on segmenting overlapping structures in frontal chest X-rays.",
    limits=(
        "The landmarks were made by a network from reference masks, not by hand. The masks are polygons: straight "
        "between landmarks. Keuth et al. split at the 160th file, which leaves few nodules, if any, in the test part. "
        "Here both parts have the same share of nodules, 159 / 87 cases. The films were digitised before 2000. "
        f"{NOT_CLINICAL}"
    ),
)
