"""FeTS 2022 (BraTS): glioma regions in four MR sequences."""

from medmixers.tasks.codes import ABNORMAL_STRUCTURE, own
from medmixers.tasks.palette import coloured
from medmixers.tasks.spec import TaskSpec
from medmixers.tasks.texts import LICENCE_PAGE, NOT_CLINICAL

BRAIN_TUMOR_SEGMENTATION = TaskSpec(
    name="brain_tumor_segmentation",
    title="Brain tumour in MRI: whole tumour, core, enhancing part (FeTS 2022)",
    task="segmentation",
    modality="MR",
    spatial_dims=3,
    channels=("T1", "T1ce", "T2", "FLAIR"),
    labels=coloured("whole_tumour", "tumour_core", "enhancing_tumour"),
    # The challenge's regions are unions of tissues: SNOMED CT has no such concepts.
    codes={
        "whole_tumour": own("WHOLE_TUMOUR", "Whole tumour (BraTS)", category=ABNORMAL_STRUCTURE),
        "tumour_core": own("TUMOUR_CORE", "Tumour core (BraTS)", category=ABNORMAL_STRUCTURE),
        "enhancing_tumour": own("ENHANCING_TUMOUR", "Enhancing tumour (BraTS)", category=ABNORMAL_STRUCTURE),
    },
    multi_label=True,
    # ids of the converted files: 1 necrotic core, 2 oedema, 3 enhancing tumour (4 in the original)
    regions={"whole_tumour": (1, 2, 3), "tumour_core": (1, 3), "enhancing_tumour": (3,)},
    spacing=(1.0, 1.0, 1.0),
    intensity="zscore_nonzero",
    group_by="subject",
    licence=f"{LICENCE_PAGE} on Synapse",
    citation=(
        "Pati S. et al. (2021). The Federated Tumor Segmentation (FeTS) challenge. arXiv:2105.05874. Baid U. et al. "
        "(2021). The RSNA-ASNR-MICCAI BraTS 2021 benchmark. arXiv:2107.02314. Bakas S. et al. (2017). Advancing The "
        "Cancer Genome Atlas glioma MRI collections. Scientific Data 4, 170117."
    ),
    data_source="FeTS 2022 training data, 1,251 subjects, with the institution of each (partitioning_1.csv)",
    intended_use="Research on segmenting glioma in preoperative MRI.",
    limits=(
        "Images are already co-registered, at 1 mm and without skull; others must be brought there first. Adults "
        "with glioblastoma before surgery. The labels of the challenge's own validation part are not public, so "
        "scores are cross-validated; five folds, as in the paper, but by the sorted subjects and not at random. "
        f"{NOT_CLINICAL}"
    ),
)
