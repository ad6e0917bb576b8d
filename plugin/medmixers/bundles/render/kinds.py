"""The two kinds of bundle, as the modules that hold what their configs have of their own. No torch here."""

from types import ModuleType

from medmixers.bundles.catalog import BundleRow
from medmixers.bundles.render import classification, segmentation

KINDS = {"segmentation": segmentation, "classification": classification}


def kind_of(row: BundleRow) -> ModuleType:
    """The module for the kind of the row's task; both have the same functions."""
    return KINDS[row.task_spec.task]
