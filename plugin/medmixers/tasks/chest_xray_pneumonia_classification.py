"""PneumoniaMNIST: pneumonia or not in chest X-rays of children."""

from medmixers.tasks.palette import coloured
from medmixers.tasks.spec import TaskSpec
from medmixers.tasks.texts import MEDMNIST, MEDMNIST_FILES, NOT_CLINICAL

CHEST_XRAY_PNEUMONIA_CLASSIFICATION = TaskSpec(
    name="chest_xray_pneumonia_classification",
    title="Chest X-ray of a child: pneumonia or normal (PneumoniaMNIST)",
    task="classification",
    modality="X-ray",
    spatial_dims=2,
    channels=("X-ray",),
    labels=coloured("normal", "pneumonia"),
    image_size=(224, 224),
    intensity="unit",
    licence="CC BY 4.0",
    citation=(
        "Kermany D. S. et al. (2018). Identifying medical diagnoses and treatable diseases by image-based deep "
        f"learning. Cell 172(5), 1122-1131. {MEDMNIST}"
    ),
    data_source=f"PneumoniaMNIST, 4,708 / 524 / 624 images, {MEDMNIST_FILES}",
    intended_use="Research on classifying chest X-rays of children.",
    limits=(
        "Children of one hospital. Training and validation are a random 9:1 split of the source's training part; "
        "the files do not tell patients, so one child's images may lie in both. Images are centre-cropped squares "
        f"of 8 bits. {NOT_CLINICAL}"
    ),
)
