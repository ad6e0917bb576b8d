"""DermaMNIST: seven kinds of pigmented skin lesion."""

from medmixers.tasks.palette import coloured
from medmixers.tasks.spec import TaskSpec
from medmixers.tasks.texts import MEDMNIST, MEDMNIST_FILES, NOT_CLINICAL

SKIN_LESION_CLASSIFICATION = TaskSpec(
    name="skin_lesion_classification",
    title="Skin lesion: diagnosis of a dermatoscopic image (DermaMNIST)",
    task="classification",
    modality="dermatoscopy",
    spatial_dims=2,
    channels=("red", "green", "blue"),
    labels=coloured(
        "actinic_keratoses_and_intraepithelial_carcinoma",
        "basal_cell_carcinoma",
        "benign_keratosis_like_lesions",
        "dermatofibroma",
        "melanoma",
        "melanocytic_nevi",
        "vascular_lesions",
    ),
    image_size=(224, 224),
    intensity="unit",
    licence="CC BY-NC 4.0",
    citation=(
        "Tschandl P., Rosendahl C., Kittler H. (2018). The HAM10000 dataset, a large collection of multi-source "
        "dermatoscopic images of common pigmented skin lesions. Scientific Data 5, 180161. Codella N. et al. "
        f"(2019). Skin lesion analysis toward melanoma detection 2018. arXiv:1902.03368. {MEDMNIST}"
    ),
    data_source=f"DermaMNIST (HAM10000), 7,007 / 1,003 / 2,005 images, {MEDMNIST_FILES}",
    intended_use="Non-commercial research on classifying dermatoscopic images of pigmented lesions.",
    limits=(
        "Images of one lesion lie on both sides of the given split (the corrected sets DermaMNIST-C and -E exist), "
        "so every score on it is optimistic; the files do not tell lesions or patients. Two of three images are "
        f"nevi. The licence forbids commercial use. {NOT_CLINICAL}"
    ),
)
