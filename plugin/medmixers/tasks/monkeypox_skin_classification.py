"""MSLD: monkeypox or other lesions in photographs of skin."""

from medmixers.tasks.palette import coloured
from medmixers.tasks.spec import TaskSpec
from medmixers.tasks.texts import LICENCE_PAGE, NOT_CLINICAL

MONKEYPOX_SKIN_CLASSIFICATION = TaskSpec(
    name="monkeypox_skin_classification",
    title="Photograph of skin: monkeypox or others (MSLD)",
    task="classification",
    modality="photograph",
    spatial_dims=2,
    channels=("red", "green", "blue"),
    labels=coloured("others", "monkeypox"),
    image_size=(224, 224),
    intensity="unit",
    group_by="patient",
    licence=LICENCE_PAGE,
    citation=(
        "Ali S. N. et al. (2022). Monkeypox skin lesion detection using deep learning models: A feasibility study. "
        "arXiv:2207.03342."
    ),
    data_source=(
        "Monkeypox Skin Lesion Dataset (Kaggle, nafin59): 102 monkeypox and 126 other originals, 1,428 and 1,764 "
        "augmented copies"
    ),
    intended_use="Research on classifying photographs of skin lesions; a comparison of networks, not a diagnosis.",
    limits=(
        "228 photographs from the web, not verified by a dermatologist. The augmented copies train, and only those "
        "of training originals: a random split of the 3,192 copies, as some papers use, tests on copies of what was "
        f"trained. Others are chickenpox and measles only. {NOT_CLINICAL}"
    ),
)
