"""Markdown tables of the recorded figures: from measured.json and networks.json, without measuring anything.

A document shows a table between the markers ``<!-- table: NAME -->`` and ``<!-- end of table -->``, where NAME is a key
of ``TABLES``. :mod:`medmixers.results.documents` fills them in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import mean, median
from textwrap import fill, shorten
from typing import Any

from medmixers.results import measured_note
from medmixers.results.allocator import allocator_table
from medmixers.results.costs import costs_tables
from medmixers.results.gpu import gpu_training_table, planner_memory_table
from medmixers.results.limits import limits_tables
from medmixers.results.markdown import markdown
from medmixers.results.scale import bundle_scale_table, loading_table, ranks_table, scale_table
from medmixers.variants import NETWORKS

OURS = "ours"  # name of this package's contender in the figures of the benchmark
LOSS_STEPS = 10  # number of steps averaged for the first and the last loss of a training
WIDTH = 120  # columns of a note
NOT_MEASURED = "Not measured yet."

Section = Mapping[str, Any]  # of measured.json: figures, and when, where and with what they were measured


def study_table(section: Section) -> str:
    """Dice and cost of the trainings of a study (scripts/benchmarks/record_study.py)."""
    labels = list(section["figures"][0]["dice"])
    header = ["trained by", "entry", "parameters", *_dice_columns(labels), "s per step", "training"]
    rows = [
        [
            _trained_by(row), row["entry"], f"{row['parameters']:,}", *_dice_cells(row["dice"]),
            f"{row['step_seconds']:.2f}", f"{row['train_seconds']:.0f} s",
        ]
        for row in section["figures"]
    ]  # fmt: skip
    note = (
        "One short training per entry: what networks cost, not which is better. Training: the time of the epochs. "
        f"{measured_note(section)}"
    )
    return f"{markdown(header, rows)}\n\n{fill(note, WIDTH)}"


def _trained_by(row: Mapping[str, Any]) -> str:
    name = {"bundle": "MONAI Bundle", "nnunet": "nnU-Net"}[row["world"]]
    return f"{name}, {row['recipe']}" if row["recipe"] else name


def benchmark_table(figures: Iterable[Mapping[str, Any]]) -> str:
    """Time and memory per comparison and pass: ours in absolute numbers, each peer relative to ours.

    Args:
        figures: the measurements, as JSON objects (``Measurement`` of scripts/benchmarks/measure.py).
    """
    rows, figures = [], list(figures)
    for base in (row for row in figures if row["contender"] == OURS):
        key = (base["comparison"], base["run"])
        peers = [row for row in figures if (row["comparison"], row["run"]) == key and row is not base]
        ratios = "; ".join(_ratio(peer, base) for peer in peers if not peer.get("error"))
        rows.append([*key, _time_and_memory(base), ratios])
    table = markdown(["comparison", "pass", "ours", "peer / ours: time (memory)"], rows)
    errors = dict.fromkeys(f"{row['contender']}: {_reason(row)}" for row in figures if row.get("error"))
    return f"{table}\n\nNot run: {'; '.join(errors)}." if errors else table


def _reason(row: Mapping[str, Any]) -> str:
    """Why a row has no figures, in at most 120 characters; "[...]" where the rest is left out."""
    return shorten(row["error"], 120)


def gradient_norms_table(rows: Mapping[str, Iterable[Mapping[str, Any]]]) -> str:
    """Gradient norms of trainings with local attention.

    Args:
        rows: device -> its trainings (``Training.summary()`` of scripts/benchmarks/stability.py).
    """
    header = ["device", "local attention by", "precision", "gradient norm: first", "median", "largest"]
    header += ["steps not finite", f"loss: first {LOSS_STEPS} steps", f"last {LOSS_STEPS}"]
    keys = ("first", "median", "largest", "not_finite", "first_loss", "last_loss")
    lines = []
    for device, trainings in rows.items():
        for row in trainings:
            cells = [f"not run: {_reason(row)}"] if "error" in row else [_number(row[key]) for key in keys]
            lines.append([device, row["backend"], row["precision"], *cells])
    return markdown(header, lines)


LARGE_IMAGE_WAYS = ("ours", "memory returned", "MONAI")  # "memory returned": ours with glibc's own settings


def large_images_table(figures: Iterable[Mapping[str, Any]]) -> str:
    """Peak memory and time of predictions of large images.

    Args:
        figures: one per image (scripts/benchmarks/large_images.py).
    """
    header = ["image", "classes", "peak", "time", "memory returned: peak", "time"]
    header += ["MONAI's parts: peak", "time", "other labels"]
    rows = []
    for row in figures:
        cells = [
            cell
            for way in LARGE_IMAGE_WAYS
            for cell in (
                [f"{row['peak_bytes'][way] / 2**30:.2f} GiB", f"{row['seconds'][way]:.0f} s"]
                if way in row["seconds"]
                else ["-", "-"]
            )
        ]
        rows.append([row["image"], str(row["classes"]), *cells, "-" if row["differ"] is None else str(row["differ"])])
    return markdown(header, rows)


def laptop_table(figures: Iterable[Mapping[str, Any]]) -> str:
    """Dice and time of nnU-Net trainings of some minutes on a CPU.

    Args:
        figures: one per training (scripts/benchmarks/laptop.py).
    """
    header = ["data", "trainer", "mean Dice", "Dice", "iterations", "seconds each", "nnU-Net's own network"]
    header += ["memory of a step", "of the process"]
    rows = []
    for row in figures:
        dice, seconds, stock = row["dice"], row["seconds_per_iteration"], row["stock_seconds_per_iteration"]
        rows.append([
            row["data"],
            f"`{row['trainer']}`",
            f"{mean(dice.values()):.3f}",
            ", ".join(f"{name} {score:.2f}" for name, score in dice.items()),
            str(row["iterations"]),
            f"{seconds:.2f}",
            f"{stock:.2f}: {seconds / stock:.2f} of it",
            *(f"{row[key] / 2**30:.2f} GiB" if row.get(key) else "-" for key in ("step_bytes", "peak_bytes")),
        ])  # fmt: skip
    return markdown(header, rows)


def exports_table(exports: Mapping[str, Mapping[str, Mapping[str, str] | None]]) -> str:
    """Export support; networks with equal outcomes share a row.

    Args:
        exports: label -> "2D" and "3D" -> way -> outcome, as ``results.network_facts()["exports"]``.
    """
    ways = next(list(found) for dims in exports.values() for found in dims.values() if found)
    groups: dict[tuple[str, ...], list[str]] = {}
    for label, dims in exports.items():
        groups.setdefault(tuple(_outcome(dims, way) for way in ways), []).append(f"`{label}`")
    return markdown(["network", *ways], ([", ".join(labels), *cells] for cells, labels in groups.items()))


def networks_table(parameters: Mapping[str, Mapping[str, int | None]]) -> str:
    """All networks, with their parameters in millions, source and summary.

    Args:
        parameters: network -> "2D" and "3D" -> count, as ``results.network_facts()["parameters"]``.
    """
    rows = [
        [f"`{name}`", row.task, *(_millions(parameters[name][dims]) for dims in ("2D", "3D")), row.source, row.summary]
        for name, row in sorted(NETWORKS.items())
        if name in parameters
    ]
    return markdown(["network", "task", "2D", "3D", "source", "summary"], rows).replace("**", r"\*\*")


def uncertainty_table(section: Section) -> str:
    """Flags, Dice and predicted Dice of images with faults (scripts/benchmarks/record_uncertainty.py)."""
    figures = section["figures"]
    checks = ("spacing", "intensities", "features")
    header = ["fault", "flagged", *(f"by {check}" for check in checks), "Dice", "predicted Dice", "volume in interval"]
    rows = [
        [
            row["fault"], f"**{row['flagged']} of {row['images']}**", *(str(row[check]) for check in checks),
            f"{row['dice']:.3f}", f"{row['predicted_dice']:.3f}", f"{row['inside']:.0%}",
        ]
        for row in figures["rows"]
    ]  # fmt: skip
    before, after = (f"{error:.3f}" for error in figures["error"])
    note = (
        f"Bundle {figures['bundle']}, {figures['epochs']} epochs in {figures['train_seconds']:.0f} s on one core of a "
        "shared machine. "
        f"Temperature {figures['temperature']:.2f} from {figures['validation_cases']} validation cases, where the "
        f"expected calibration error was {before} before and {after} after. Images were compared with "
        f"{figures['training_images']} images of training and validation. "
        f"{measured_note(section)}"
    )
    return f"{markdown(header, rows)}\n\n{fill(note, WIDTH)}"


def flag_table(section: Section) -> str:
    """Flagged images by kind (scripts/benchmarks/record_flag.py)."""
    figures = section["figures"]
    rows = [
        [
            row["training"], row["images"], f"**{row['flagged']} of {row['count']}**",
            *(str(row[check]) for check in ("spacing", "intensities", "noise")),
        ]
        for row in figures["rows"]
    ]  # fmt: skip
    header = ["training", "images", "flagged", "by spacing", "by intensities", "of these by noise"]
    note = f"Compared with {figures['training_images']} images of the training. {measured_note(section)}"
    return f"{markdown(header, rows)}\n\n{fill(note, WIDTH)}"


def runtimes_table(figures: Iterable[Mapping[str, Any]]) -> str:
    """Time, start and memory per network and runtime; the last columns compare with torch.

    Args:
        figures: rows of scripts/benchmarks/runtimes.py.
    """
    rows = []
    for entry in figures:
        base = median(entry["runtimes"]["torch"]["ms"])
        for name, row in entry["runtimes"].items():
            if "error" in row:
                rows.append([entry["network"], name, f"no: {_reason(row)}", "", "", "", ""])
                continue
            peak = row.get("peak_mib")
            rows.append(
                [
                    entry["network"],
                    name,
                    f"{median(row['ms']):.1f} ms ({min(row['ms']):.1f} to {max(row['ms']):.1f})",
                    f"**{base / median(row['ms']):.2f}**",
                    f"{row['difference']:.0e}",
                    f"{row['start_s']:.1f} s",
                    "" if peak is None else f"{peak:.0f} MiB",
                ]
            )
    header = ["network", "by", "time", "torch / this", "logits differ by", "start and first pass", "peak"]
    return markdown(header, rows)


def startup_table(figures: Iterable[Mapping[str, Any]]) -> str:
    """Seconds from a command to its answer (scripts/benchmarks/startup.py)."""
    rows = [[f"`{row['command']}`", f"{row['wall_s']:.2f} s", f"{row['cpu_s']:.2f} s"] for row in figures]
    return markdown(["command", "time", "processor time"], rows)


def demo_model_table(figures: Iterable[Mapping[str, Any]]) -> str:
    """Dice of the demo's model on real images (scripts/demo_model/pack.py)."""
    rows = [[row["image"], row["fault"], *(f"{score:.3f}" for score in row["dice"].values())] for row in figures]
    return markdown(["image", "changed how", "Dice grey matter", "Dice white matter"], rows)


def _study(name: str) -> Callable[[Mapping[str, Section], Mapping[str, Any]], str]:
    return lambda sections, facts: study_table(sections[name]) if name in sections else NOT_MEASURED


def _each(kind: str, table: Callable[[Any], str]) -> Callable[[Mapping[str, Section], Mapping[str, Any]], str]:
    """A table and its note for each section "KIND" or "KIND DEVICE"."""

    def tables(sections: Mapping[str, Section], facts: Mapping[str, Any]) -> str:
        found = [section for name, section in sections.items() if name == kind or name.startswith(f"{kind} ")]
        return "\n\n".join(f"{table(s['figures'])}\n\n{measured_note(s)}" for s in found) or NOT_MEASURED

    return tables


def _drawn(
    kind: str, table: Callable[[Iterable[Mapping[str, Any]]], str], file: str, alt: str
) -> Callable[[Mapping[str, Section], Mapping[str, Any]], str]:
    """As :func:`_each`, below the figure that is drawn of it."""
    tables = _each(kind, table)

    def drawn(sections: Mapping[str, Section], facts: Mapping[str, Any]) -> str:
        text = tables(sections, facts)
        return text if text == NOT_MEASURED else f"![{alt}]({file})\n\n{text}"

    return drawn


def _gradient_norms(sections: Mapping[str, Section], facts: Mapping[str, Any]) -> str:
    found = _by_device(sections, "gradient norms")
    table = gradient_norms_table({device: section["figures"]["rows"] for device, section in found.items()})
    return "\n".join([f"{table}\n", *map(measured_note, found.values())]) if found else NOT_MEASURED


def _exports(sections: Mapping[str, Section], facts: Mapping[str, Any]) -> str:
    by_versions: dict[str, list[str]] = {}
    for label, row in facts["exports"].items():
        by_versions.setdefault(row["measured with"], []).append(f"`{label}`")
    most, *others = sorted(by_versions, key=lambda versions: -len(by_versions[versions]))
    notes = [f"Measured with {most}.", *(f"{', '.join(by_versions[each])}: measured with {each}." for each in others)]
    outcomes = {label: {dims: row[dims] for dims in ("2D", "3D")} for label, row in facts["exports"].items()}
    return "\n\n".join([exports_table(outcomes), " ".join(notes)])


def _uncertainty(sections: Mapping[str, Section], facts: Mapping[str, Any]) -> str:
    return uncertainty_table(sections["uncertainty"]) if "uncertainty" in sections else NOT_MEASURED


def _flag(sections: Mapping[str, Section], facts: Mapping[str, Any]) -> str:
    return flag_table(sections["flag"]) if "flag" in sections else NOT_MEASURED


def _networks(sections: Mapping[str, Section], facts: Mapping[str, Any]) -> str:
    return networks_table(facts["parameters"])


SCALE_TABLES: Mapping[str, Callable[[Iterable[Mapping[str, Any]]], str]] = {
    "scale networks": scale_table,
    "scale mixers": scale_table,
    "scale bundles": bundle_scale_table,
    "scale ranks": ranks_table,
    "scale loading": loading_table,
}
# name in a marker -> its table, from all of measured.json and networks.json
TABLES: dict[str, Callable[[Mapping[str, Section], Mapping[str, Any]], str]] = {
    "demo": _study("demo"),
    "compare_nnunet": _study("compare_nnunet"),
    "costs": _each("costs", costs_tables),
    "benchmark": _each("benchmark", benchmark_table),
    "runtimes": _each("runtimes", runtimes_table),
    "demo model": _each("demo model", demo_model_table),
    "start-up": _each("start-up", startup_table),
    "gradient norms": _gradient_norms,
    "planner memory": _each("planner memory", planner_memory_table),
    "gpu training": _each("gpu training", gpu_training_table),
    "uncertainty": _uncertainty,
    "flag": _flag,
    "laptop": _each("laptop", laptop_table),
    "large images": _each("large images", large_images_table),
    **{name: _each(name, table) for name, table in SCALE_TABLES.items()},
    "scale networks": _drawn(
        "scale networks", scale_table, "scale_networks.svg", "Time and memory of a training step over the image size"
    ),
    "scale mixers": _drawn(
        "scale mixers", scale_table, "scale_mixers.svg", "Time and memory of a training step over the tokens"
    ),
    "allocator": _each("allocator", allocator_table),
    "limits": _each("limits", limits_tables),
    "exports": _exports,
    "networks": _networks,
}


def _by_device(sections: Mapping[str, Section], kind: str) -> dict[str, Section]:
    """Device -> section, of the sections "KIND DEVICE"."""
    return {name[len(kind) + 1 :]: section for name, section in sections.items() if name.startswith(f"{kind} ")}


def _dice_columns(labels: Iterable[str]) -> list[str]:
    return [*(f"Dice {label.replace('_', ' ')}" for label in labels), "mean"]


def _dice_cells(dice: Mapping[str, float]) -> list[str]:
    return [f"{score:.3f}" for score in (*dice.values(), sum(dice.values()) / len(dice))]


def _time_and_memory(row: Mapping[str, Any]) -> str:
    times, peak, change = row["milliseconds"], row.get("peak_mib"), row.get("change")
    text = f"{median(times):.1f} ms ({min(times):.1f} to {max(times):.1f})"
    text += "" if peak is None else f", {peak:.0f} MiB"
    return text + ("" if change is None else f", output changed by {100 * change:.1f} %")


def _ratio(peer: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    text = f"{peer['contender']} **{median(peer['milliseconds']) / median(ours['milliseconds']):.2f}**"
    if not ours.get("peak_mib") or peer.get("peak_mib") is None:
        return text
    return f"{text} ({peer['peak_mib'] / ours['peak_mib']:.1f})"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _outcome(dims: Mapping[str, Mapping[str, str] | None], way: str) -> str:
    outcomes = {key: ways[way] for key, ways in dims.items() if ways is not None}
    if len(set(outcomes.values())) == 1:
        return next(iter(outcomes.values()))
    return ", ".join(f"{key} {outcome}" for key, outcome in outcomes.items())


def _millions(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.2f}"
