"""AbdomenAtlas 1.0 Mini: nine structures in abdominal CT."""

from medmixers.tasks.codes import (
    AORTA,
    GALLBLADDER,
    LEFT_KIDNEY,
    LIVER,
    PANCREAS,
    RIGHT_KIDNEY,
    SPLEEN,
    STOMACH,
    sct,
)
from medmixers.tasks.palette import with_background
from medmixers.tasks.spec import TaskSpec
from medmixers.tasks.texts import NOT_CLINICAL

ABDOMEN_CT_SEGMENTATION = TaskSpec(
    name="abdomen_ct_segmentation",
    title="Abdominal CT: nine structures (AbdomenAtlas 1.0)",
    task="segmentation",
    modality="CT",
    spatial_dims=3,
    channels=("CT",),
    labels=with_background(
        "aorta",
        "gall_bladder",
        "kidney_left",
        "kidney_right",
        "liver",
        "pancreas",
        "postcava",
        "spleen",
        "stomach",
    ),
    codes={
        "aorta": AORTA,
        "gall_bladder": GALLBLADDER,
        "kidney_left": LEFT_KIDNEY,
        "kidney_right": RIGHT_KIDNEY,
        "liver": LIVER,
        "pancreas": PANCREAS,
        "postcava": sct("64131007", "Inferior vena cava"),
        "spleen": SPLEEN,
        "stomach": STOMACH,
    },
    spacing=(1.5, 1.5, 1.5),
    intensity="window",
    window=(-200.0, 300.0),
    licence="CC BY-NC-SA 4.0",
    citation=(
        "Li W. et al. (2024). AbdomenAtlas: A large-scale, detailed-annotated, & multi-center dataset for efficient "
        "transfer learning and open algorithmic benchmarking. Medical Image Analysis 97, 103285."
    ),
    data_source="AbdomenAtlas 1.0 Mini, 5,195 CT volumes",
    intended_use="Non-commercial research on segmenting abdominal organs and vessels in CT.",
    limits=(
        "Most masks were made by networks and revised by radiologists. The volumes come from other public data sets: "
        "a network trained on them must not be tested on those. One patient may have several volumes, and the data "
        "set does not say which. Keuth et al. crop to the true organs before prediction; this bundle does not. Some "
        f"headers are not orthonormal. {NOT_CLINICAL}"
    ),
)
