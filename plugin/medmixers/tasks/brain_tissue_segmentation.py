"""Grey and white matter of one real anatomy (an average of 152 people) in simulated subjects: the demo's task."""

from medmixers.tasks.codes import sct
from medmixers.tasks.palette import with_background
from medmixers.tasks.spec import TaskSpec

BRAIN_TISSUE_SEGMENTATION = TaskSpec(
    name="brain_tissue_segmentation",
    title="Brain tissue on T1 MRI: grey and white matter",
    task="segmentation",
    modality="MR",
    spatial_dims=3,
    channels=("T1",),
    labels=with_background("grey_matter", "white_matter"),
    codes={"grey_matter": sct("389081007", "Gray Matter"), "white_matter": sct("389080008", "White Matter")},
    spacing=(2.0, 2.0, 2.0),
    intensity="zscore_nonzero",
    validation_every=5,
    licence="MNI ICBM152 2009a: may be used, copied, modified and distributed with its copyright notice",
    citation=(
        "Fonov V., Evans A. C., Botteron K., Almli C. R., McKinstry R. C., Collins D. L. (2011). "
        "Unbiased average age-appropriate atlases for pediatric studies. NeuroImage 54(1), 313-327."
    ),
    data_source=(
        "MNI ICBM152 2009a T1 template and its tissue probability maps, as the package nilearn carries "
        "them, warped into simulated subjects (medmixers demo data)"
    ),
    intended_use="Trying the tools: training, evaluation and inference on a small, free data set.",
    limits=(
        "One real anatomy (an average of 152 people), simulated subjects: a check of the tools, not evidence "
        "about networks. Not a medical device; not for clinical use."
    ),
)
