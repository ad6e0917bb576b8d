"""``medmixers bundle app``: a MONAI Deploy application around a packed bundle, from a DICOM series to a DICOM SEG."""

from __future__ import annotations

import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medmixers.bundles.render.text import render
from medmixers.bundles.share.carried import vendored_name
from medmixers.clinic.model import SegmentationModel, open_model, with_codes
from medmixers.errors import ExistingFileError, InputError
from medmixers.files import working_folder, written_whole
from medmixers.images.dicom_seg import LONGEST, Segment
from medmixers.progress import silent
from medmixers.tasks.from_yaml import load_codes

# file of the application -> its template
FILES = {
    "app.py": "deploy_app.py.j2",
    "__main__.py": "deploy_main.py.j2",
    "app.yaml": "deploy_app.yaml.j2",
    "requirements.txt": "deploy_requirements.txt.j2",
}
NAMED = {"torch": "pytorch_version", "monai": "monai_version", "numpy": "numpy_version"}  # by a key of their own
REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # a name or a version, and no option of pip


def write_application(source: str | Path, out: str | Path = ".", *, codes: str | Path | None = None) -> Path:
    """Write OUT/NAME_app: the folder ``app`` with the Python files, and the unpacked bundle below ``model``.

    Args:
        source: zip of a bundle that segments volumes of one channel into structures that do not overlap.
        out: folder that will hold the application's folder.
        codes: YAML file with codes of the labels, over those of the bundle.

    Returns:
        The application's folder.

    Raises:
        InputError: no zip of a packed bundle, a bundle that MONAI Deploy's operators do not take, a label without a
            code, or an application that is there already.
    """
    source, out = Path(source), Path(out)
    if source.is_dir():
        raise InputError(f"{source} is a folder: give the zip that medmixers bundle pack writes, with weights and code")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file: give the folder that will hold the application")
    with working_folder(out / source.stem) as scratch:
        model = open_model(source, scratch, checkpoint=None, announce=silent)
        _check(model, source)
        model = with_codes(model, {} if codes is None else load_codes(codes))
        target = out / f"{model.name}_app"
        if target.exists():
            raise ExistingFileError(f"{target} is there already: give another folder, or move it away")
        with written_whole(target) as partial:
            (partial / "app").mkdir(parents=True)
            for name, text in render_application(model).items():
                (partial / "app" / name).write_text(text, encoding="utf-8")
            (partial / "model").mkdir()
            shutil.move(model.bundle, partial / "model" / model.name)
    return target


def _check(model: SegmentationModel, source: Path) -> None:
    """Raise InputError for what MONAI Deploy's operators would refuse, or take and silently get wrong."""
    if vendored_name(model.bundle) is None:
        raise InputError(f"{source} carries no code of its network: write it with medmixers bundle pack")
    reason = None
    if model.is_of_nnunet:
        reason = "predicts by nnU-Net's functions, which read files"
    elif len(model.channels) > 1:
        reason = f"takes {len(model.channels)} series per case, MONAI Deploy's operator gives it one"
    elif [segment.values for segment in model.segments] != [(n,) for n in range(1, len(model.segments) + 1)]:
        reason = "has structures that overlap or several values per structure, MONAI Deploy's writer takes one each"
    if reason is not None:
        raise InputError(f"{source} {reason}: use medmixers clinic segment, which writes a DICOM SEG too")


def render_application(model: SegmentationModel) -> dict[str, str]:
    """File name -> text of the files of the application. Texts of the bundle stand in them as literals.

    Args:
        model: with a code for each segment.
    """
    metadata = json.loads((model.bundle / "configs" / "metadata.json").read_text("utf-8"))
    (modality,) = model.modalities
    rules = [{"name": model.modality, "conditions": {"Modality": f"^{modality}$"}}]
    facts = {
        "software": version("medmixers"),
        "name": repr(model.name),
        "version": repr(model.version),
        "weights_sha256": repr(model.weights_sha256),
        "rules": repr({} if modality is None else {"selections": rules}),
        "segments": [[(repr(key), repr(value)) for key, value in _facts(each).items()] for each in model.segments],
    }
    packages = {package: metadata[key] for package, key in NAMED.items()} | metadata["required_packages_version"]
    packages.pop("medmixers", None)  # the bundle carries its code
    for text in (model.version, *packages, *packages.values()):
        if not REQUIREMENT.fullmatch(text):
            raise InputError(f"the metadata of {model.name} state {text!r} as a version or a package, which is none")
    plain = {"name": model.name, "version": model.version, "packages": sorted(packages.items())}
    return {name: render(template, **(facts if name.endswith(".py") else plain)) for name, template in FILES.items()}


def _facts(segment: Segment) -> dict[str, Any]:
    """Arguments of the class Segment in the application."""
    codes = {} if segment.codes is None else vars(segment.codes)
    return {
        "label": segment.name[:LONGEST],
        "colour": tuple(segment.colour),
        **{part: tuple(code) for part, code in codes.items() if code is not None},
    }
