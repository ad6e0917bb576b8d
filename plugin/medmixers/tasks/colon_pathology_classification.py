"""PathMNIST: nine tissues in patches of colorectal cancer histology."""

from medmixers.tasks.palette import coloured
from medmixers.tasks.spec import TaskSpec
from medmixers.tasks.texts import MEDMNIST, MEDMNIST_FILES, NOT_CLINICAL

COLON_PATHOLOGY_CLASSIFICATION = TaskSpec(
    name="colon_pathology_classification",
    title="Colon pathology: tissue of a histology patch (PathMNIST)",
    task="classification",
    modality="histology",
    spatial_dims=2,
    channels=("red", "green", "blue"),
    labels=coloured(
        "adipose",
        "background",
        "debris",
        "lymphocytes",
        "mucus",
        "smooth_muscle",
        "normal_colon_mucosa",
        "cancer_associated_stroma",
        "colorectal_adenocarcinoma_epithelium",
    ),
    image_size=(224, 224),
    intensity="unit",
    licence="CC BY 4.0",
    citation=(
        "Kather J. N. et al. (2019). Predicting survival from colorectal cancer histology slides using deep "
        f"learning. PLoS Medicine 16(1), e1002730. {MEDMNIST}"
    ),
    data_source=f"PathMNIST (NCT-CRC-HE-100K, CRC-VAL-HE-7K), 89,996 / 10,004 / 7,180 images, {MEDMNIST_FILES}",
    intended_use="Research on classifying the tissue of haematoxylin and eosin stained patches of 224 pixels.",
    limits=(
        "Training and validation are a random 9:1 split of the patches of the same slides, so validation is "
        "optimistic; the test part comes from another centre. The files do not tell patients or slides. Colours "
        f"were normalised by the authors. {NOT_CLINICAL}"
    ),
)
