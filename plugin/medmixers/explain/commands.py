"""``medmixers explain``: maps of a case, of an nnU-Net model or a bundle, as NIfTI and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from medmixers.errors import InputError
from medmixers.explain.case import Case, Window, in_case, window_around
from medmixers.explain.cases import explained_cases
from medmixers.explain.class_activation import ClassScores, class_activation
from medmixers.explain.labels import dice_table, label_file, label_folder, read_masks
from medmixers.explain.mixer_attention import block_attention
from medmixers.explain.models import Model, opened
from medmixers.explain.output import Output, on_file, output_of, write
from medmixers.explain.picture import Row
from medmixers.explain.receptive_field import SHARES, reach, receptive_field
from medmixers.explain.tokens import diversity_text, near_copies, tokens_of
from medmixers.files import refuse_overwriting_inputs
from medmixers.progress import Announce, silent


def write_attention(
    model: str | Path,
    image: str | Path,
    out: str | Path,
    *,
    labels: str | Path | None = None,
    announce: Announce = silent,
    **options: Any,
) -> str:
    """Write token maps as NIfTI and as pictures; files for a file, a folder of CASE.nii.gz and CASE.png for a folder.

    The whole case goes through the network at once, not in windows: attention is a softmax over all positions, so the
    maps of windows could not be stitched together.

    Args:
        model: folder of an nnU-Net model or of a bundle, or the zip of a bundle.
        image: a NIfTI file or a picture (of several channels the first, CASE_0000), or a folder of cases.
        out: the file, NIfTI or picture; or the folder.
        labels: label file of the case, or a folder of CASE.nii.gz, CASE.png ...
        announce: called with the name of each step.
        options: of :class:`medmixers.explain.models.Model`: fold, checkpoint, device.

    Returns:
        What was written, in words.
    """
    has_label_folder, is_folder = label_folder(labels, image), Path(image).is_dir()
    lines = []
    with opened(model, announce=announce, **options) as loaded:
        cases = explained_cases(image, loaded.channels)
        read = {name: [*files] for name, files in cases.items()}
        if labels is not None:
            for name, files in cases.items():
                read[name].append(label_file(labels, files[0], name, is_folder=has_label_folder))
        if is_folder:
            refuse_overwriting_inputs(Path(out), [file for files in read.values() for file in files])
        outputs = {
            name: output_of(Path(out) / f"{name}.nii.gz" if is_folder else out, files) for name, files in read.items()
        }
        for name, files in cases.items():
            label = read[name][-1] if labels is not None else None
            lines.append(_write_tokens(loaded, files, outputs[name], label, announce))
    return "\n".join(lines)


def _write_tokens(loaded: Model, files: Sequence[Path], output: Output, label: Path | None, announce: Announce) -> str:
    case = loaded.case(files)
    labelled = None if label is None else read_masks(label, files[0], loaded.structures, loaded.ignored)
    announce("run the network")
    tokens = tokens_of(case.network, case.image)
    announce("resample the maps")
    number = tokens.vectors.shape[1]
    maps = tokens.attention if tokens.spread is None else torch.cat([tokens.attention, tokens.spread], 1)
    voxels = on_file(case, maps)
    attention = voxels[..., :number]
    voxel = _most_attended(attention, {} if labelled is None else labelled.masks)
    entry = 0 if len(tokens.vectors) == 1 else case.place(voxel[: len(case.source.shape)])[0]
    copies = {each.token: f", near-copy of {each.original}" for each in near_copies(tokens.vectors[entry])}
    rows = [
        Row(f"token {n}{copies.get(n, '')}", [voxels[..., one] for one in range(n, voxels.shape[-1], number)])
        for n in range(number)
    ]
    diversity = diversity_text(tokens.vectors, entry)
    columns = ["left: TokenLearner's attention A; right: TokenFuser's maps B (blue: negative)"]
    notes = [diversity[0], *(columns if tokens.spread is not None else [])]
    parts = ["A", "B"] if tokens.spread is not None else ["A"]
    titles = [f"token {n}, {part}{copies.get(n, '')}" for part in parts for n in range(number)]
    write(case, voxels, output, rows, voxel, kind="tokens", titles=titles, image=files[0], notes=notes)
    lines = [f"{number} token attention maps of {', '.join(map(str, files))}: {output}"]
    if tokens.spread is not None:
        lines.append(f"volumes 0 to {number - 1}: TokenLearner's A; {number} to {2 * number - 1}: TokenFuser's B")
    lines += diversity
    if labelled is not None:
        lines.append(dice_table(attention, labelled))
    return "\n".join(lines)


def _most_attended(attention: np.ndarray[Any, Any], masks: dict[str, Any]) -> tuple[int, ...]:
    """The voxel of a file with the largest attention, of the labelled ones where there are any; (x, y, z)."""
    whole = (attention**2).sum(-1)
    labelled = sum(mask.astype(bool) for mask in masks.values()) if masks else 0
    inside = whole * (np.asarray(labelled) > 0)
    return tuple(map(int, np.unravel_index(int((inside if inside.any() else whole).argmax()), whole.shape)))


class OneCase(NamedTuple):
    """A case, the window around a voxel of it, and where its maps go."""

    model: Model
    case: Case
    files: Sequence[Path]
    window: Window
    voxel: Sequence[int]
    output: Output
    announce: Announce

    def write(
        self, kind: str, maps: Tensor, titles: Sequence[str], notes: Sequence[str] = (), *, at_peak: bool = False
    ) -> None:
        """Write maps of the window, (N, *window), with a title each.

        Args:
            kind: of the maps, in :data:`medmixers.images.explanations.KINDS`.
            at_peak: the picture goes through the largest value of the first map, not through the voxel.
        """
        self.announce("resample the maps")
        voxels = on_file(self.case, in_case(self.case, self.window, maps))
        rows = [Row(title, [voxels[..., number]]) for number, title in enumerate(titles)]
        peak = [int(index) for index in np.unravel_index(int(voxels[..., 0].argmax()), voxels.shape[:3])]
        write(
            self.case, voxels, self.output, rows, peak if at_peak else self.voxel,
            kind=kind, titles=titles, image=self.files[0], notes=notes,
        )  # fmt: skip

    @property
    def where(self) -> str:
        """The voxel in words."""
        return f"voxel {','.join(map(str, self.voxel))} in {self.files[0]}"


@contextmanager
def one_case(
    model: str | Path,
    image: str | Path,
    out: str | Path,
    voxel: Sequence[int] | None,
    *,
    announce: Announce = silent,
    **options: Any,
) -> Iterator[OneCase]:
    """A case and the window around a voxel, which is the centre of the image by default.

    Args:
        voxel: of the image file, counted from 0.
        model, image, out, announce, options: as of :func:`write_attention`; the image is one file.
    """
    if Path(image).is_dir():
        raise InputError(f"{image} is a folder: {'the command' if voxel is None else '--voxel'} needs one image file")
    with opened(model, announce=announce, **options) as loaded:
        ((_, files),) = explained_cases(image, loaded.channels).items()
        output = output_of(out, files)
        case = loaded.case(files)
        place = [size // 2 for size in case.source.shape] if voxel is None else voxel
        window = window_around(case, place)
        announce("run the network")
        yield OneCase(loaded, case, files, window, place, output, announce)


def write_block_attention(
    model: str | Path, image: str | Path, out: str | Path, voxel: Sequence[int], **options: Any
) -> str:
    """Write what one voxel attends to in every block of attention: 4D NIfTI, one volume per block, and a picture.

    The network gets the window around the voxel. Maps are in multiples of uniform attention in this window. The
    arguments are those of :func:`one_case`.
    """
    with one_case(model, image, out, voxel, **options) as one:
        blocks = block_attention(one.case.network, one.window.image, one.window.position)
        titles = [f"{block.block}, {block.kind}, feature map of {_by(block.grid)}" for block in blocks]
        at = f"at voxel {','.join(map(str, one.voxel))}"
        one.write("attention", torch.stack([block.weights for block in blocks]), titles, [at])
        lines = [f"volume {number}: {title}" for number, title in enumerate(titles)]
        return "\n".join([f"{len(blocks)} attention maps of {one.where}: {one.output}", *lines])


def write_receptive_field(
    model: str | Path, image: str | Path, out: str | Path, voxel: Sequence[int], **options: Any
) -> str:
    """Write the effective receptive field of the output at one voxel: NIfTI and a picture; and say how wide it is.

    Its map is in multiples of the mean in the window. The arguments are those of :func:`one_case`.
    """
    with one_case(model, image, out, voxel, **options) as one:
        field = receptive_field(one.case.network, one.window.image, one.window.position)
        if not field.any():
            raise InputError(f"no voxel of the image has an influence on {one.where}")
        reached = zip(SHARES, reach(field, one.window.position), strict=True)
        shares = ", ".join(f"{share:.0%} within {distance}" for share, distance in reached)
        spacing = one.case.spacing
        unit = f"voxels of {_by([f'{size:g}' for size in spacing])} mm" if spacing else "voxels"
        wide = f"{shares} {unit} on each axis, in a window of {_by(one.case.window)}"
        one.write("receptive_field", field[None], ["effective receptive field"], [wide])
        return f"effective receptive field at {one.where}: {one.output}\n{wide}"


def write_activation(
    model: str | Path,
    image: str | Path,
    out: str | Path,
    *,
    method: str = "gradcam",
    label: str | int | None = None,
    voxel: Sequence[int] | None = None,
    layer: str | None = None,
    mask_size: int | None = None,
    **options: Any,
) -> str:
    """Write where the evidence for a class lies: NIfTI and a picture.

    Args:
        method: of :data:`medmixers.explain.class_activation.METHODS`.
        label: class, by its name or its channel of the logits; by default the one that the network finds: in the image,
            or of a segmenter at the voxel.
        voxel: the window around it is explained, the centre of the image by default; of a classifier it is the whole
            image. The picture shows the planes through it, by default through the largest value.
        layer, mask_size: as of :func:`medmixers.explain.class_activation.class_activation`.
        model, image, out, options: as of :func:`one_case`.
    """
    with one_case(model, image, out, voxel, **options) as one:
        image_in = one.window.image
        exclusive = one.model.classes_exclude_each_other
        scores = ClassScores(one.case.network, image_in, exclusive=exclusive).eval()
        is_segmenter = scores.chosen is not None
        index: tuple[Any, ...] = (0, slice(None), *(one.window.position if is_segmenter else ()))
        logits = scores.logits[index]
        number = int(logits.argmax()) if label is None else _class_number(label, one.model.outputs)
        found = class_activation(scores, image_in, method=method, label=number, layer=layer, mask_size=mask_size)
        with torch.no_grad():
            probability = float(scores.probabilities(image_in)[0, number])
        of = f"class {number}, {one.model.outputs[number]}"
        how = (
            f"layer {found.layer}, feature map of {_by(found.grid)}" if found.layer else f"blocks of {_by(found.grid)}"
        )
        one.write("activation", found.map[None], [f"{method}: {of}"], [how], at_peak=voxel is None)
        mean = "mean probability in its voxels" if is_segmenter else "probability"
        where = f"the window of {_by(one.case.window)} around {one.where}" if is_segmenter else str(one.files[0])
        return f"{method} of {of} ({mean} {probability:.3f}) in {where}: {one.output}\n{how}"


def _class_number(label: str | int, names: Sequence[str]) -> int:
    """Channel of a class by its name or number. InputError: there is no such class."""
    text = str(label)
    if text in names:
        return names.index(text)
    if text.isdigit() and int(text) < len(names):
        return int(text)
    listed = ", ".join(f"{number} {name}" for number, name in enumerate(names))
    raise InputError(f"the model has no class {text!r}; valid: {listed}")


def _by(sizes: Sequence[object]) -> str:
    return " x ".join(map(str, sizes))
