"""ImageWoof: ten breeds of dogs from ImageNet, the natural control of Keuth et al. 2025 (appendix C)."""

from medmixers.tasks.palette import coloured
from medmixers.tasks.spec import TaskSpec
from medmixers.tasks.texts import LICENCE_PAGE, NOT_CLINICAL

DOG_BREED_CLASSIFICATION = TaskSpec(
    name="dog_breed_classification",
    title="Dog breed of a photograph (ImageWoof), the natural control of medical results",
    task="classification",
    modality="photograph",
    spatial_dims=2,
    channels=("red", "green", "blue"),
    labels=coloured(
        "shih_tzu",
        "rhodesian_ridgeback",
        "beagle",
        "english_foxhound",
        "border_terrier",
        "australian_terrier",
        "golden_retriever",
        "old_english_sheepdog",
        "samoyed",
        "dingo",
    ),
    image_size=(224, 224),
    intensity="unit",
    licence=f"Of ImageNet; {LICENCE_PAGE}",
    citation=(
        "Howard J. (2019). Imagewoof: a subset of 10 classes from imagenet that aren't so easy to classify. Deng J. et "
        "al. (2009). ImageNet: A large-scale hierarchical image database. CVPR."
    ),
    data_source="ImageWoof, imagewoof2-320, 9,025 / 3,929 photographs of the given parts train and val",
    intended_use="Research: a natural control for token mixers and pretrained weights.",
    limits=(
        "No medical images. Weights pretrained on ImageNet have seen these photographs, the test part's classes too. "
        f"{NOT_CLINICAL}"
    ),
)
