"""OrganSMNIST: which of eleven organs a sagittal CT slice shows."""

from medmixers.tasks.palette import coloured
from medmixers.tasks.spec import TaskSpec
from medmixers.tasks.texts import MEDMNIST, MEDMNIST_FILES, NOT_CLINICAL

ABDOMINAL_ORGAN_CLASSIFICATION = TaskSpec(
    name="abdominal_organ_classification",
    title="Abdominal CT, sagittal: organ in the slice (OrganSMNIST)",
    task="classification",
    modality="CT",
    spatial_dims=2,
    channels=("CT",),
    labels=coloured(
        "bladder",
        "femur_left",
        "femur_right",
        "heart",
        "kidney_left",
        "kidney_right",
        "liver",
        "lung_left",
        "lung_right",
        "pancreas",
        "spleen",
    ),
    image_size=(224, 224),
    intensity="unit",
    licence="CC BY 4.0",
    citation=(
        "Bilic P. et al. (2023). The Liver Tumor Segmentation Benchmark (LiTS). Medical Image Analysis 84, 102680. "
        "Xu X. et al. (2019). Efficient multiple organ localization in CT image using 3D region proposal network. "
        f"IEEE Transactions on Medical Imaging 38(8), 1885-1898. {MEDMNIST}"
    ),
    data_source=f"OrganSMNIST (LiTS), 13,932 / 2,452 / 8,827 slices of 115 / 16 / 70 scans, {MEDMNIST_FILES}",
    intended_use="Research on classifying organs in sagittal CT slices.",
    limits=(
        "Slices are cropped to the organ's box and windowed to 8 bits, so size and Hounsfield units are lost. Left "
        "and right organs are classes of their own, which a mirrored image contradicts. Several slices come from "
        f"each scan, which the files do not name. {NOT_CLINICAL}"
    ),
)
