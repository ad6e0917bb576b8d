"""The converter of each task, from the files that people download to a data set folder; and its run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from medmixers.errors import ExistingFileError, InputError, MissingFileError
from medmixers.files import refuse_overwriting_inputs, written_whole
from medmixers.progress import steps
from medmixers.registry import Registry
from medmixers.tasks import TASKS

# task -> function(writer, source, *, options); imported when it is called
CONVERTERS: Registry[str] = Registry("task with a converter", listing="medmixers list converters")
for _name, _target in (
    ("colon_pathology_classification", "convert_medmnist.convert"),
    ("skin_lesion_classification", "convert_medmnist.convert"),
    ("chest_xray_pneumonia_classification", "convert_medmnist.convert"),
    ("abdominal_organ_classification", "convert_medmnist.convert"),
    ("lung_nodule_classification", "convert_medmnist.convert"),
    ("chest_xray_segmentation", "convert_jsrt.convert"),
    ("wrist_bone_segmentation", "convert_grazpedwri.convert"),
    ("breast_tissue_segmentation", "convert_tiger.convert"),
    ("abdomen_ct_segmentation", "convert_abdomen_atlas.convert"),
    ("brain_tumor_segmentation", "convert_fets.convert"),
    ("covid_ct_classification", "convert_sars_cov_2.convert"),
    ("monkeypox_skin_classification", "convert_msld.convert"),
    ("covid_ct_slice_classification", "convert_large_covid.convert"),
    ("multi_organ_ct_segmentation", "convert_synapse.convert"),
    ("cardiac_mri_segmentation", "convert_acdc.convert"),
    ("dog_breed_classification", "convert_imagewoof.convert"),
    ("chest_xray_findings_classification", "convert_medmnist.convert"),
):
    CONVERTERS.register(_name, f"medmixers.datasets.{_target}")


def convert(task: str, source: str | Path, out: str | Path, *, link: bool = False, **options: Any) -> str:
    """Write the data set of a task from its own files, whole or not at all.

    Args:
        task: name in ``CONVERTERS``.
        source: folder (or file) as it was downloaded and unpacked.
        out: folder to write, outside of the source; it must not exist.
        link: make hard links to the source's files where they need no change, instead of copies.
        options: of this task's converter.

    Returns:
        A report: cases, groups and classes of each part; files that were left out or changed.

    Raises:
        FileNotFoundError: the source, or a file that it must hold, is missing.
        FileExistsError: ``out`` exists.
        ValueError: an unknown task or option, or a file that is damaged or not of this data set.
    """
    from medmixers.datasets.writers import DatalistWriter, RawWriter

    module, _, name = CONVERTERS[task].rpartition(".")
    function = getattr(import_module(module), name)
    options = _checked_options(task, function, options)
    source, out = Path(source), Path(out)
    if not source.exists():
        raise MissingFileError(f"there is no source {source}")
    if out.exists():
        raise ExistingFileError(f"{out} exists; choose another folder")
    spec = TASKS[task]
    if link and not spec.has_raw_format:
        raise InputError(f"--link: the images of {task} are read and written, so no file can be linked")
    _check_place(out, [source, *map(Path, (value for value in options.values() if isinstance(value, str)))])
    with written_whole(out) as partial, steps("convert") as announce:
        partial.mkdir()
        writer = (
            RawWriter(spec, partial, announce=announce, link=link)
            if spec.has_raw_format
            else DatalistWriter(spec, partial, announce=announce)
        )
        function(writer, source, **options)
        writer.finish()
    return f"{writer.summary()}\n{out}"


def _check_place(out: Path, sources: list[Path]) -> None:
    """Refuse a place in a source, where the next conversion would read the files of this one, or in raw data."""
    refuse_overwriting_inputs(out, sources)
    for source in sources:
        if source.is_dir() and source.resolve() in out.resolve().parents:
            raise InputError(f"output {str(out)!r} lies in the source {str(source)!r}; give a folder outside of it")


# annotation of a converter's option -> what its value must be, and how to say so
_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "str": (object, "text"),  # a folder named 900 was read as a number
    "int": (int, "a whole number"),
    "int | None": (int, "a whole number"),
    "float": ((int, float), "a number"),
}


def _checked_options(task: str, function: Callable[..., None], options: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    valid = [name for name, item in parameters.items() if item.kind is item.KEYWORD_ONLY]
    checked = {}
    for name, value in options.items():
        if name not in valid:
            listed = ", ".join(f"--{each}" for each in valid) or "none"
            raise InputError(f"{task} has no option --{name}; valid: {listed}")
        kind, words = _KINDS[parameters[name].annotation]
        if isinstance(value, bool) or not isinstance(value, kind):
            raise InputError(f"--{name} must be {words}, got {value!r}")
        checked[name] = str(value) if words == "text" else value
    return checked
