"""TIGER: seven tissues in regions of breast cancer slides."""

from medmixers.tasks.codes import ABNORMAL_STRUCTURE, TISSUE, own
from medmixers.tasks.palette import with_background
from medmixers.tasks.spec import TaskSpec
from medmixers.tasks.texts import NOT_CLINICAL

BREAST_TISSUE_SEGMENTATION = TaskSpec(
    name="breast_tissue_segmentation",
    title="Breast cancer histology: seven tissues (TIGER)",
    task="segmentation",
    modality="histology",
    spatial_dims=2,
    channels=("red", "green", "blue"),
    labels=with_background(
        "invasive_tumour",
        "tumour_associated_stroma",
        "in_situ_tumour",
        "healthy_glands",
        "necrosis_not_in_situ",
        "inflamed_stroma",
        "rest",
    ),
    codes={
        "invasive_tumour": own("INVASIVE_TUMOUR", "Invasive tumour", category=ABNORMAL_STRUCTURE),
        "tumour_associated_stroma": own("TUMOUR_STROMA", "Tumour-associated stroma", category=TISSUE),
        "in_situ_tumour": own("IN_SITU_TUMOUR", "In-situ tumour", category=ABNORMAL_STRUCTURE),
        "healthy_glands": own("HEALTHY_GLANDS", "Healthy glands", category=TISSUE),
        "necrosis_not_in_situ": own("NECROSIS", "Necrosis, not in situ", category=ABNORMAL_STRUCTURE),
        "inflamed_stroma": own("INFLAMED_STROMA", "Inflamed stroma", category=TISSUE),
        "rest": own("REST", "Other tissue", category=TISSUE),
    },
    ignore_label=8,
    mpp=0.5,
    intensity="unit",
    group_by="slide",
    licence=(
        "Annotations and the slides of RUMC and JB: CC BY-NC 4.0. Slides of TCGA-BRCA: the terms of the Genomic "
        "Data Commons"
    ),
    citation=(
        "TIGER challenge (2022), tiger.grand-challenge.org. Amgad M. et al. (2019). Structured crowdsourcing enables "
        "convolutional segmentation of histology images (BCSS). Bioinformatics 35(18), 3461-3467."
    ),
    data_source=(
        "TIGER training set WSIROIS, roi-level annotations tissue-bcss and tissue-cells, about 0.5 um per pixel"
    ),
    intended_use="Non-commercial research on segmenting tissue in haematoxylin and eosin stained breast cancer.",
    limits=(
        "HER2-positive and triple-negative breast cancer only. TIGER's mask value 0 means excluded: it becomes the "
        "ignored value 8, and label 0 (background) never occurs, so its output means nothing. Regions of one slide "
        "stay on one side of the split, unlike in Keuth et al., who use 284 regions with a side of at least "
        f"1,000 pixels. Images are not resampled. {NOT_CLINICAL}"
    ),
)
