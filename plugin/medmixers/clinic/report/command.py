"""``medmixers clinic report``: one offline page about the cases of a folder of predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from medmixers import pages
from medmixers.clinic.report.case import drawing, find_image, read_cases, read_image
from medmixers.clinic.report.explanations import Explanations, Panel
from medmixers.clinic.report.planes import UNSURE, Drawing
from medmixers.clinic.report.viewer import read_scripts, volumes
from medmixers.errors import InputError
from medmixers.files import refuse_overwriting_inputs, written_whole
from medmixers.progress import Announce, progress, silent

TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    predictions: str | Path,
    images: str | Path,
    out: str | Path,
    *,
    viewer: str | Path | None = None,
    explanation: Sequence[str | Path] = (),
    announce: Announce = silent,
) -> str:
    """Write a page about the predictions of ``medmixers clinic uncertainty``.

    It is one HTML file that loads nothing, and without ``viewer`` it runs no script. It shows each image with the
    outlines of its structures in three planes, volumes with intervals, where the model is unsure, and what is known of
    the model. Of the image files it takes the voxels and the geometry, and no text.

    Args:
        predictions: the folder that was written.
        images: the images, or the folder with them; each is found again by its SHA-256.
        out: the page, .html.
        viewer: file niivue.umd.js of NiiVue, to scroll through volumes; the pictures are there without it too.
        explanation: NIfTI files that medmixers explain wrote, or folders of them; each is found by its image.
        announce: called with the name of each step.

    Returns:
        What was written, in words.

    Raises:
        InputError: predictions or images that are missing, or do not belong together.
    """
    predictions, images, out = Path(predictions), Path(images), Path(out)
    if out.suffix.lower() not in (".html", ".htm") or out.is_dir():
        raise InputError(f"{out} must be a page to write, .html")
    refuse_overwriting_inputs(out, [predictions, images, *map(Path, explanation)])
    scripts = [] if viewer is None else read_scripts(Path(viewer))
    cases = read_cases(predictions)
    explained = Explanations([Path(each) for each in explanation])
    explained.check([facts["images_sha256"][0] for facts in cases])
    announce("draw the cases")
    shown = [
        _case(facts, predictions, images, explained, with_volumes=bool(scripts))
        for facts in progress(cases, "draw the cases")
    ]
    text = pages.render(
        TEMPLATES,
        "case_report.html.j2",
        cases=shown,
        models=_models(cases),
        calibrations=_calibrations(cases),
        date=date.today().isoformat(),
        unsure=UNSURE,
        data_uri=pages.data_uri,
        scripts=[each._replace(text=Markup(each.text)) for each in scripts],
    )
    announce("write the page")
    with written_whole(out) as partial:
        partial.write_text(text, encoding="utf-8")
    return f"{out}: {len(cases)} case{'s' if len(cases) > 1 else ''}"


def _case(
    facts: Mapping[str, Any], predictions: Path, images: Path, explained: Explanations, *, with_volumes: bool
) -> dict[str, Any]:
    """What the template shows of a case."""
    file, digest = find_image(facts, images), facts["images_sha256"][0]
    planes: dict[str, Any] = {"fullest": (), "least_sure": (), "volumes": None}
    panels: list[Panel] = []
    if "structures" in facts:
        image = read_image(file)
        drawn = drawing(facts, predictions, image)
        panels = explained.panels(digest, image, drawn)
        names = [row["name"].replace("_", " ") for row in facts["structures"]]
        planes = {
            "fullest": drawn.fullest(),
            "least_sure": drawn.least_sure(),
            "volumes": volumes(drawn, names) if with_volumes else None,
        }
    elif digest in explained.by_image:
        image = read_image(file)
        shape = image.data.shape if image.affine is not None else image.data.shape[:2]
        panels = explained.panels(digest, image, Drawing(image.data, [], np.zeros(shape), image.affine))
    return {
        "facts": facts,
        **planes,
        "panels": panels,
        "sizes": _sizes(facts),
        "classes": [(name, f"{value:.3f}") for name, value in facts.get("probabilities", {}).items()],
    }


def _sizes(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per structure."""
    rows = []
    for row in facts.get("structures", ()):
        dice = row["predicted_dice"]
        rows.append({
            "name": row["name"].replace("_", " "),
            "colour": "#{:02x}{:02x}{:02x}".format(*row["colour"]),
            "size": f"{row['size']:.1f}",
            "interval": f"{row['low']:.1f} to {row['high']:.1f}",
            "dice": "not found" if dice is None else f"{dice:.2f}",
        })  # fmt: skip
    return rows


def _calibrations(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each calibration once, with the names of its cases where other cases do not have it."""
    found: list[dict[str, Any]] = []
    for calibration in (facts["calibration"] for facts in cases):
        if calibration is not None and all(each["facts"] != calibration for each in found):
            names = [facts["case"] for facts in cases if facts["calibration"] == calibration]
            only = names if len(names) < len(cases) else []
            found.append({"facts": calibration, "validation": _validation(calibration), "only": only})
    return found


def _validation(calibration: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row per structure of how its uncertainty held on the validation cases."""
    rows = []
    for row in calibration.get("structures", ()):
        scores = ("-" if row[key] is None else f"{row[key]:.3f}" for key in ("dice", "predicted_dice"))
        rows.append((row["name"].replace("_", " "), *scores, f"{row['inside']} of {row['cases']}"))
    return rows


def _models(cases: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Each model of the cases once."""
    found = {model["weights_sha256"]: model for facts in cases for model in facts["models"]}
    return list(found.values())
