"""ACDC: both ventricles and the myocardium in cine MRI."""

from medmixers.tasks.codes import sct
from medmixers.tasks.palette import with_background
from medmixers.tasks.spec import TaskSpec
from medmixers.tasks.texts import LICENCE_PAGE, NOT_CLINICAL

CARDIAC_MRI_SEGMENTATION = TaskSpec(
    name="cardiac_mri_segmentation",
    title="Cardiac cine MRI: ventricles and myocardium (ACDC)",
    task="segmentation",
    modality="MR",
    spatial_dims=3,
    channels=("cine MRI",),
    labels=with_background("right_ventricle", "myocardium", "left_ventricle"),
    codes={
        "right_ventricle": sct("53085002", "Right ventricle"),
        "myocardium": sct("49848007", "Left Ventricle Myocardium"),
        "left_ventricle": sct("87878005", "Left ventricle"),
    },
    spacing=(1.5625, 1.5625, 10.0),
    intensity="zscore",
    group_by="patient",
    licence=f"{LICENCE_PAGE} (a copy on the Hugging Face hub states CC BY-NC-SA 4.0)",
    citation=(
        "Bernard O., Lalande A., Zotti C., Cervenansky F. et al. (2018). Deep learning techniques for automatic MRI "
        "cardiac multi-structures segmentation and diagnosis: Is the problem solved? IEEE Transactions on Medical "
        "Imaging 37(11), 2514-2525."
    ),
    data_source="ACDC, end-diastolic and end-systolic frames of 100 patients (and of the 50 test patients where given)",
    intended_use="Research on segmenting short-axis cine MRI of the heart.",
    limits=(
        "One hospital, two scanners. Both frames of a heart stay on one side of the split; the fold that stock "
        "nnU-Net makes by itself does not keep them together, splits_final.json does. Slices are 5 to 10 mm thick and "
        f"may be shifted against each other by breathing. {NOT_CLINICAL}"
    ),
)
