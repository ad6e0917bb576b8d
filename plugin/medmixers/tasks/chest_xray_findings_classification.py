"""ChestMNIST: fourteen findings in chest X-rays, any number of them per image."""

from medmixers.tasks.palette import coloured
from medmixers.tasks.spec import TaskSpec
from medmixers.tasks.texts import MEDMNIST, MEDMNIST_FILES, NOT_CLINICAL

CHEST_XRAY_FINDINGS_CLASSIFICATION = TaskSpec(
    name="chest_xray_findings_classification",
    title="Chest X-ray: fourteen findings (ChestMNIST)",
    task="classification",
    modality="X-ray",
    spatial_dims=2,
    channels=("X-ray",),
    labels=coloured(
        "atelectasis",
        "cardiomegaly",
        "effusion",
        "infiltration",
        "mass",
        "nodule",
        "pneumonia",
        "pneumothorax",
        "consolidation",
        "edema",
        "emphysema",
        "fibrosis",
        "pleural_thickening",
        "hernia",
    ),
    multi_label=True,
    image_size=(224, 224),
    intensity="unit",
    licence="CC BY 4.0 of the files; the images are those of NIH-ChestXray14, see its page",
    citation=(
        "Wang X. et al. (2017). ChestX-ray8: hospital-scale chest X-ray database and benchmarks on weakly-supervised "
        f"classification and localization of common thorax diseases. CVPR, 3462-3471. {MEDMNIST}"
    ),
    data_source=f"ChestMNIST (NIH-ChestXray14), 78,468 / 11,219 / 22,433 images, {MEDMNIST_FILES}",
    intended_use="Research on classifying chest X-rays by several findings.",
    limits=(
        "The labels were mined from reports by a program, so some are wrong. The files do not tell patients. "
        f"{NOT_CLINICAL}"
    ),
)
