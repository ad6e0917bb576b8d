"""Tasks: one frozen :class:`TaskSpec` a file, and the table of them. No torch here."""

from medmixers.registry import Registry
from medmixers.tasks.brain_tissue_segmentation import BRAIN_TISSUE_SEGMENTATION
from medmixers.tasks.spec import Label, TaskSpec

TASKS: Registry[TaskSpec] = Registry("task")
for _task in (BRAIN_TISSUE_SEGMENTATION,):
    TASKS.register(_task.name, _task)

__all__ = ["TASKS", "Label", "TaskSpec"]
