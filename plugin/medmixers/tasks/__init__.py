"""Tasks: one frozen :class:`TaskSpec` a file, and the table of them."""

from medmixers.registry import Registry
from medmixers.tasks.abdomen_ct_segmentation import ABDOMEN_CT_SEGMENTATION
from medmixers.tasks.abdominal_organ_classification import ABDOMINAL_ORGAN_CLASSIFICATION
from medmixers.tasks.brain_tissue_segmentation import BRAIN_TISSUE_SEGMENTATION
from medmixers.tasks.brain_tumor_segmentation import BRAIN_TUMOR_SEGMENTATION
from medmixers.tasks.breast_tissue_segmentation import BREAST_TISSUE_SEGMENTATION
from medmixers.tasks.cardiac_mri_segmentation import CARDIAC_MRI_SEGMENTATION
from medmixers.tasks.chest_xray_findings_classification import CHEST_XRAY_FINDINGS_CLASSIFICATION
from medmixers.tasks.chest_xray_pneumonia_classification import CHEST_XRAY_PNEUMONIA_CLASSIFICATION
from medmixers.tasks.chest_xray_segmentation import CHEST_XRAY_SEGMENTATION
from medmixers.tasks.colon_pathology_classification import COLON_PATHOLOGY_CLASSIFICATION
from medmixers.tasks.covid_ct_classification import COVID_CT_CLASSIFICATION
from medmixers.tasks.covid_ct_slice_classification import COVID_CT_SLICE_CLASSIFICATION
from medmixers.tasks.dog_breed_classification import DOG_BREED_CLASSIFICATION
from medmixers.tasks.lung_nodule_classification import LUNG_NODULE_CLASSIFICATION
from medmixers.tasks.monkeypox_skin_classification import MONKEYPOX_SKIN_CLASSIFICATION
from medmixers.tasks.multi_organ_ct_segmentation import MULTI_ORGAN_CT_SEGMENTATION
from medmixers.tasks.skin_lesion_classification import SKIN_LESION_CLASSIFICATION
from medmixers.tasks.spec import Label, TaskSpec
from medmixers.tasks.wrist_bone_segmentation import WRIST_BONE_SEGMENTATION

TASKS: Registry[TaskSpec] = Registry("task", listing="medmixers list tasks")
for _task in (
    COLON_PATHOLOGY_CLASSIFICATION,
    SKIN_LESION_CLASSIFICATION,
    CHEST_XRAY_PNEUMONIA_CLASSIFICATION,
    ABDOMINAL_ORGAN_CLASSIFICATION,
    LUNG_NODULE_CLASSIFICATION,
    CHEST_XRAY_SEGMENTATION,
    WRIST_BONE_SEGMENTATION,
    BREAST_TISSUE_SEGMENTATION,
    ABDOMEN_CT_SEGMENTATION,
    BRAIN_TUMOR_SEGMENTATION,
    COVID_CT_CLASSIFICATION,
    MONKEYPOX_SKIN_CLASSIFICATION,
    COVID_CT_SLICE_CLASSIFICATION,
    MULTI_ORGAN_CT_SEGMENTATION,
    CARDIAC_MRI_SEGMENTATION,
    BRAIN_TISSUE_SEGMENTATION,
    DOG_BREED_CLASSIFICATION,
    CHEST_XRAY_FINDINGS_CLASSIFICATION,
):
    TASKS.register(_task.name, _task)

__all__ = ["TASKS", "Label", "TaskSpec"]
