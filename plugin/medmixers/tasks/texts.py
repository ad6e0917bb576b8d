"""Sentences that several tasks share, and the check of a text that enters a bundle's configs."""

import re

from medmixers.errors import InputError

NOT_CLINICAL = "Not a medical device; not for clinical use."
MEDMNIST = (
    "Yang J., Shi R., Wei D., Liu Z., Zhao L., Ke B., Pfister H., Ni B. (2023). MedMNIST v2 - a large-scale "
    "lightweight benchmark for 2D and 3D biomedical image classification. Scientific Data 10, 41."
)
MEDMNIST_FILES = "from the MedMNIST+ files that Zenodo record 10519652 holds"
LICENCE_PAGE = "not verified here: see the data set's page"
# MONAI evaluates a text that begins with $, replaces one that begins with @ or %, and rewrites # and relative ids.
EVALUATED = re.compile(r"\s*[$@%]|.*#|.*[@%]::", re.DOTALL)


def check_config_text(name: str, text: str) -> None:
    """Raise InputError for a text that MONAI would evaluate or rewrite in a config.

    Args:
        name: of the value, for the message.
        text: the value, which a person wrote or a file from elsewhere holds.
    """
    if EVALUATED.match(text):
        rule = "must not hold '#' or begin with '$', '@' or '%', which MONAI evaluates or rewrites"
        raise InputError(f"{name} {rule}, got {text[:80]!r}")
