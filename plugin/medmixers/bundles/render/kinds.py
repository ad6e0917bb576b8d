"""The kind of a bundle, by its task."""

from medmixers.bundles.catalog import BundleRow
from medmixers.bundles.render.classification import ClassificationKind
from medmixers.bundles.render.kind import BundleKind
from medmixers.bundles.render.multi_label import MultiLabelKind
from medmixers.bundles.render.segmentation import SegmentationKind

KINDS: dict[str, type[BundleKind]] = {"segmentation": SegmentationKind, "classification": ClassificationKind}


def kind_of(row: BundleRow) -> BundleKind:
    """The kind of a row, which gives the parts of its configs."""
    task = row.task_spec
    return MultiLabelKind(row) if task.task == "classification" and task.multi_label else KINDS[task.task](row)
