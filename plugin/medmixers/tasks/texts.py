"""Sentences that several tasks share."""

NOT_CLINICAL = "Not a medical device; not for clinical use."
MEDMNIST = (
    "Yang J., Shi R., Wei D., Liu Z., Zhao L., Ke B., Pfister H., Ni B. (2023). MedMNIST v2 - a large-scale "
    "lightweight benchmark for 2D and 3D biomedical image classification. Scientific Data 10, 41."
)
MEDMNIST_FILES = "from the MedMNIST+ files that Zenodo record 10519652 holds"
LICENCE_PAGE = "not verified here: see the data set's page"
