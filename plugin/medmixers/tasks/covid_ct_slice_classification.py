"""Large COVID-19 CT scan slice data set: COVID-19 or normal in a CT slice."""

from medmixers.tasks.palette import coloured
from medmixers.tasks.spec import TaskSpec
from medmixers.tasks.texts import LICENCE_PAGE, NOT_CLINICAL

COVID_CT_SLICE_CLASSIFICATION = TaskSpec(
    name="covid_ct_slice_classification",
    title="Chest CT slice: COVID-19 or normal (Large COVID-19 CT scan slice)",
    task="classification",
    modality="CT",
    spatial_dims=2,
    channels=("CT",),
    labels=coloured("normal", "covid"),
    image_size=(224, 224),
    intensity="unit",
    group_by="patient",
    licence=LICENCE_PAGE,
    citation=(
        "Maftouni M. et al. (2021). Large COVID-19 CT scan slice dataset. Kaggle, 10.34740/kaggle/dsv/2321803. A "
        "robust ensemble-deep learning model for COVID-19 diagnosis based on an integrated CT scan images database. "
        "IISE Annual Conference 2021."
    ),
    data_source=(
        "Large COVID-19 CT scan slice dataset (Kaggle, maedemaftouni): 7,593 slices of 466 COVID-19 patients, 6,893 "
        "slices of 604 normal ones"
    ),
    intended_use="Research on classifying CT slices; a comparison of networks, not a diagnosis.",
    limits=(
        "Merged from seven public sets: classes differ in origin, so a network can learn the origin instead of the "
        "disease, and a network trained on it must not be tested on those sets. Split "
        "by patient, as the tables name them; a random split of slices, as papers use, mixes patients. "
        f"{NOT_CLINICAL}"
    ),
)
