"""The two kinds of bundle, as the modules that hold what their configs have of their own. No torch here."""

from types import ModuleType

from medmixers.bundling import classification, segmentation
from medmixers.bundling.catalog import BundleRow

KINDS = {"segmentation": segmentation, "classification": classification}


def kind_of(row: BundleRow) -> ModuleType:
    """The module for the kind of the row's task; both have the same functions."""
    return KINDS[row.task_spec.task]
