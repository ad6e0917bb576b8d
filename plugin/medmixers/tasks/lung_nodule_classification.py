"""NoduleMNIST3D: benign or malignant lung nodule in CT."""

from medmixers.tasks.palette import coloured
from medmixers.tasks.spec import TaskSpec
from medmixers.tasks.texts import MEDMNIST, MEDMNIST_FILES, NOT_CLINICAL

LUNG_NODULE_CLASSIFICATION = TaskSpec(
    name="lung_nodule_classification",
    title="Lung nodule in CT: benign or malignant by rating (NoduleMNIST3D)",
    task="classification",
    modality="CT",
    spatial_dims=3,
    channels=("CT",),
    labels=coloured("benign", "malignant"),
    image_size=(64, 64, 64),
    intensity="unit",
    licence="CC BY 4.0",
    citation=(
        "Armato S. G. III et al. (2011). The Lung Image Database Consortium (LIDC) and Image Database Resource "
        f"Initiative (IDRI). Medical Physics 38(2), 915-931. {MEDMNIST}"
    ),
    data_source=f"NoduleMNIST3D (LIDC-IDRI), 1,158 / 165 / 310 nodules, {MEDMNIST_FILES}",
    intended_use="Research on classifying CT volumes centred on a lung nodule.",
    limits=(
        "The truth is the radiologists' rating (1, 2 against 4, 5; nodules rated 3 are left out), not pathology. "
        "The files tell neither patients nor voxel size nor orientation; nodules of one patient may lie on two "
        f"sides of the split. {NOT_CLINICAL}"
    ),
)
