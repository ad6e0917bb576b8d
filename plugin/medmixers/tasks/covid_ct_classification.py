"""SARS-CoV-2 CT-scan data set: COVID-19 or not in a CT slice."""

from medmixers.tasks.palette import coloured
from medmixers.tasks.spec import TaskSpec
from medmixers.tasks.texts import NOT_CLINICAL

COVID_CT_CLASSIFICATION = TaskSpec(
    name="covid_ct_classification",
    title="Chest CT slice: COVID-19 or not (SARS-CoV-2 CT-scan)",
    task="classification",
    modality="CT",
    spatial_dims=2,
    channels=("CT",),
    labels=coloured("non_covid", "covid"),
    image_size=(224, 224),
    intensity="unit",
    group_by="near-duplicate",
    licence="CC BY-NC-SA 4.0, as catalogues of data sets state it; see the data set's page on Kaggle",
    citation=(
        "Soares E., Angelov P., Biaso S., Froes M. H., Abe D. K. (2020). SARS-CoV-2 CT-scan dataset: A large dataset "
        "of real patients CT scans for SARS-CoV-2 identification. medRxiv 2020.04.24.20078584."
    ),
    data_source="SARS-COV-2 Ct-Scan Dataset (Kaggle, plameneduardo), 1,252 COVID-19 and 1,230 other slices",
    intended_use="Research on classifying CT slices; a comparison of networks, not a diagnosis.",
    limits=(
        "The set names no patients: slices of one patient lie on both sides of any split, so every score on it is "
        "optimistic. Near-identical slices are kept together, which is less than a split by patient. Slices are "
        "8-bit pictures of unknown windows and various sizes; a network can learn their look instead of the disease. "
        f"{NOT_CLINICAL}"
    ),
)
