"""A study's plan: every training, checked before any GPU is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import medmixers
from medmixers.errors import FaultsError, InputError, joined_lines
from medmixers.files import file_digest
from medmixers.mixers import TOKEN_MIXERS
from medmixers.peers import split_name
from medmixers.recipes import RECIPES
from medmixers.results import git_commit
from medmixers.study.engine.cost import network_cost
from medmixers.study.engine.datasets import describe, describe_missing, metric_of
from medmixers.study.engine.design import Design, Spread, comparisons, pilot_spread
from medmixers.study.engine.entries import Entry
from medmixers.study.engine.spec import Data, Question, Spec
from medmixers.study.engine.worlds.bundle import default_patch, row_of
from medmixers.variants import NETWORKS

VERSIONS = ("medmixers", "torch", "monai", "nnunetv2", "timm")


def make_plan(spec: Spec, *, allow_underpowered: bool = False, allow_missing: bool = False) -> dict[str, Any]:
    """The content of plan.json. Nothing is written.

    Args:
        spec: the study's file.
        allow_underpowered: go on where the design cannot answer the question; the reasons become part of the plan.
        allow_missing: plan without data sets and start weights that are not there; ``plan["missing"]`` names them.

    Raises:
        InputError: faults, each with its line, or a design that cannot answer the question.
    """
    fold_list = None if spec.folds is None else list(spec.folds)
    rows = (_dataset(spec, data, fold_list, allow_missing=allow_missing) for data in spec.data)
    datasets = [row for row in rows if row is not None]
    missing = [*_missing_data(datasets), *_missing_weights(spec, allow_missing=allow_missing)]
    spec.faults.raise_any()
    entries = [_entry(entry) for entry in spec.entries]
    _build_all(spec, datasets, entries, fetch=not allow_missing)
    spec.faults.raise_any()
    designs = {row["name"]: design_of(spec, row) for row in datasets}
    refusals = [f"{name}: {reason}" for name, design in designs.items() for reason in design.refusals()]
    if refusals and not allow_underpowered:
        listed = "".join(f"\n  {reason}" for reason in refusals)
        raise FaultsError(
            f"study {spec.study} cannot answer its question (--allow_underpowered runs it all the same):{listed}"
        )
    for row in datasets:
        row["detectable"] = designs[row["name"]].detectable()
    return {
        "study": spec.study,
        "question": _question(spec.question, datasets, allow_underpowered),
        "datasets": datasets,
        "entries": entries,
        "seeds": list(spec.seeds),
        "folds": fold_list,
        "runs": _runs(spec, datasets),
        "devices": list(spec.machine.devices),
        "threads": spec.machine.threads,
        "slurm": None if spec.machine.slurm is None else asdict(spec.machine.slurm),
        "versions": _versions(),
        "commit": git_commit(Path(medmixers.__file__).parents[2]),
        "refusals": refusals,
        "missing": missing,
        "notes": [*_notes(datasets, entries), *([] if not allow_missing else _not_built(entries))],
    }


def _dataset(spec: Spec, data: Data, folds: list[int] | None, *, allow_missing: bool) -> dict[str, Any] | None:
    """A data set's row; None, with a fault noted, where it cannot be read or no entry can train on it."""
    faults, entries = spec.faults, [entry for entry in spec.entries if entry.trains_on(data.name)]
    try:
        row = (describe_missing(data, folds) if allow_missing else None) or describe(data, folds)
        row["metric"] = metric_of(data, row["kind"], spec.question.metric)
    except (InputError, OSError) as error:
        faults.add(data.place, joined_lines(error))
        return None
    row["margin"] = data.margin or spec.question.margin
    row["training"] = asdict(data.training)
    row["entries"] = [entry.name for entry in entries]
    row["published"] = None if spec.printed is None else spec.printed.of(data.name, row["metric"], row["entries"])
    for entry in entries:
        if reason := _impossible(row, entry):
            faults.add(entry.place, f"entry {entry.name!r}: {reason}; or limit the entry: data: [NAME, ...]")
    if len(entries) < 2:
        faults.add(data.place, f"data set {data.name!r} has {len(entries)} entries; a comparison needs 2")
    if data.training.recipe is not None:
        _check_recipe(spec, data, row)
    if row["world"] == "bundle" and row["training"]["patch_size"] is None:
        bound = any(
            TOKEN_MIXERS[mixer].size_bound for entry in entries for mixer in _mixers(entry) if mixer in TOKEN_MIXERS
        )
        row["training"]["patch_size"] = default_patch(row, smaller=bound)
    elif row["world"] == "nnunet" and row["training"]["patch_size"] is not None:
        faults.add(
            ("train",), "patch_size is for bundles: in nnU-Net all entries take the patch that its planner finds"
        )
    return row


def _check_recipe(spec: Spec, data: Data, row: Mapping[str, Any]) -> None:
    classifies = RECIPES[str(data.training.recipe)].dice_weight == 0
    if classifies != (row["kind"] == "classification"):
        place = (*data.place, "train") if (*data.place, "train") in spec.faults.lines else ("train", "recipe")
        spec.faults.add(
            place,
            f"recipe {data.training.recipe!r} is not for {row['kind']}, as data set {data.name!r} is; give that data "
            "set its own: train: {recipe: RECIPE}",
        )


def _impossible(row: Mapping[str, Any], entry: Entry) -> str:
    """Why an entry cannot train on a data set; empty where it can."""
    if entry.network is None:
        if row["world"] == "nnunet":
            return ""
        return f"nnU-Net's {entry.trainer} cannot train {row['name']!r}, a MONAI Bundle's data set"
    if row["world"] == "nnunet" and entry.pretrained is not None:
        return f"pretrained is for data sets of MONAI Bundles, {row['name']!r} is nnU-Net's"
    kind = NETWORKS[entry.network].task
    if kind != row["kind"]:
        where = "nnU-Net's data set" if row["world"] == "nnunet" else "data set"
        return f"network {entry.network!r} is for {kind}, {where} {row['name']!r} is for {row['kind']}"
    if split_name(entry.network)[0] == "timm" and row["spatial_dims"] != 2:
        return f"network {entry.network!r} is 2D, data set {row['name']!r} is 3D"
    return ""


def _mixers(entry: Entry) -> list[str]:
    mixer = entry.options.get("mixer", NETWORKS[entry.network].arguments.get("mixer", ()) if entry.network else ())
    return [mixer] if isinstance(mixer, str) else list(mixer)


def _entry(entry: Entry) -> dict[str, Any]:
    mixers, kernel, file = _mixers(entry), entry.options.get("kernel_size"), entry.weights_file
    what = dict(entry.what)
    if file is not None:  # the file may lie elsewhere; its content counts
        what["pretrained"] = file_digest(file) if file.is_file() else file.name
    return {
        "name": entry.name,
        "options": dict(entry.options),
        "network": entry.network,
        "trainer": entry.trainer,
        "plans": entry.plans,
        "what": {key: list(value) if isinstance(value, tuple) else value for key, value in what.items()},
        "mixer": mixers[0] if len(mixers) == 1 else (", ".join(mixers) or None),
        "kernel_size": max(kernel) if isinstance(kernel, tuple) else kernel,
        "pretrained": entry.pretrained is not None,
        "start": None if entry.pretrained is None else {"weights": entry.pretrained, "warm_start": entry.warm_start},
    }


def _missing_data(datasets: list[dict[str, Any]]) -> list[str]:
    """What is missing of the data, each once, with the names that it has in the study."""
    names: dict[str, list[str]] = {}
    for row in datasets:
        if "missing" in row:
            names.setdefault(row["missing"], []).append(row["name"])
    return [f"{', '.join(each)}: {what}" for what, each in names.items()]


def _missing_weights(spec: Spec, *, allow_missing: bool) -> list[str]:
    """Files of start weights that are not there, each with its entries; a fault unless they may be missing."""
    missing: dict[str, list[str]] = {}
    for entry in spec.entries:
        file = entry.weights_file
        if file is not None and not file.is_file():
            missing.setdefault(str(file), []).append(entry.name)
            if not allow_missing:
                spec.faults.add(entry.place, f"entry {entry.name!r}: there are no weights {file}")
    listed = []
    for path, names in missing.items():
        origin = next((NETWORKS[e.network].weights for e in spec.entries if e.name == names[0] and e.network), "")
        which = f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]
        published = f"; the published ones are {origin}" if origin else ""
        listed.append(f"{which}: there are no weights {path}{published}")
    return listed


def _build_all(spec: Spec, datasets: list[dict[str, Any]], entries: list[dict[str, Any]], *, fetch: bool) -> None:
    """Build every network of every data set on the meta device; a wrong option is a fault of its entry.

    Args:
        spec: takes the faults.
        datasets: rows, which get ``parameters``.
        entries: rows of the plan.
        fetch: build networks too whose frozen part is downloaded.
    """
    places = {entry.name: entry.place for entry in spec.entries}
    ran: list[Any] = []  # one forward pass per network, options, size and channels is enough
    for row in datasets:
        row["parameters"] = {}
        for entry in entries:
            if entry["name"] not in row["entries"] or entry["network"] is None or not (fetch or _is_whole(entry)):
                continue
            try:
                network, options, size = built_of(row, entry)
                channels = row["channels"] or 1  # of a missing nnU-Net data set they are unknown
                key = network, options, size, channels
                cost = network_cost(network, options, size, channels, row["out_channels"] or 2, forward=key not in ran)
                ran.append(key)
                if row["channels"]:
                    row["parameters"][entry["name"]] = cost.parameters
            except (InputError, OSError) as error:
                spec.faults.add(places[entry["name"]], f"entry {entry['name']!r}: {joined_lines(error)}")


def _not_built(entries: list[dict[str, Any]]) -> list[str]:
    """Entries that a plan without downloads cannot build."""
    return [
        f"{entry['name']}: not built here; its training loads the encoder {entry['options'].get('encoder')!r} by "
        "transformers, which downloads it"
        for entry in entries
        if entry["network"] is not None and not _is_whole(entry)
    ]


def _is_whole(entry: Mapping[str, Any]) -> bool:
    """Whether a network can be built from what is here: RAD-DINO's frozen encoder comes from the hub or a folder."""
    return not entry["network"].startswith("rad_dino_") or Path(str(entry["options"].get("encoder"))).is_dir()


def built_of(row: Mapping[str, Any], entry: Mapping[str, Any]) -> tuple[str, dict[str, Any], tuple[int, ...]]:
    """Network, its options and a size to build it with; in nnU-Net the size is the planner's, here a stand-in."""
    if row["world"] == "bundle":
        bundle = row_of(row, entry)
        return bundle.network, dict(bundle.network_options), bundle.size
    return entry["network"], dict(entry["options"]), (64,) * row["spatial_dims"]


def design_of(spec: Spec, row: Mapping[str, Any]) -> Design:
    """What the study can find on a data set."""
    question, parts = spec.question, row["parts"].values()
    tested = {case for part in parts for case in part["test"]}
    spread = None
    if question.sd is not None:
        spread = Spread(question.sd["seed"], question.sd["residual"], "declared")
    elif question.pilot is not None:
        spread = pilot_spread(question.pilot, dataset=row["name"], metric=row["metric"])
    return Design(
        cases=None if "missing" in row else len({row["cases"][case]["group"] for case in tested}),
        seeds=len(spec.seeds),
        comparisons=comparisons(len(row["entries"]), control=question.control is not None),
        margin=row["margin"],
        alpha=question.alpha,
        spread=spread,
    )


def _question(question: Question, datasets: list[dict[str, Any]], allow_underpowered: bool) -> dict[str, Any]:
    asked = {
        "metric": question.metric or datasets[0]["metric"],
        "margin": question.margin,
        "alpha": question.alpha,
        "control": question.control,
        "compare": "all" if question.control is None else "control",
        "allow_underpowered": allow_underpowered,
    }
    return asked if question.nsd_tolerance is None else {**asked, "nsd_tolerance": question.nsd_tolerance}


def _runs(spec: Spec, datasets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trainings, seeds outermost: an interrupted study has whole rounds of all entries."""
    runs = []
    for seed in spec.seeds:
        for row in datasets:
            for entry in row["entries"]:
                for fold in [None] if spec.folds is None else spec.folds:
                    name = f"{row['name']}__{entry}__seed{seed}" + ("" if fold is None else f"__fold{fold}")
                    key = "test" if fold is None else str(fold)
                    cases = row["parts"][key]["test"]
                    runs.append({"id": name, "dataset": row["name"], "entry": entry, "seed": seed, "fold": fold,
                                 "cases": cases})  # fmt: skip
    return runs


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _notes(datasets: list[dict[str, Any]], entries: list[dict[str, Any]]) -> list[str]:
    """What is not equal between the entries of a comparison, or not known before the data is prepared."""
    notes = []
    for row in datasets:
        own = [entry for entry in entries if entry["name"] in row["entries"]]
        name, recipe = row["name"], row["training"]["recipe"]
        if row["world"] == "bundle":
            notes.append(f"{name}: all entries have the same patch, batch, epochs and augmentation")
            metaformers = [entry["network"] for entry in own if NETWORKS[entry["network"]].encoder]
            shared = RECIPES[recipe].network_options if recipe else {}
            if shared and 0 < len(metaformers) < len(own):
                notes.append(f"{name}: the recipe sets {', '.join(shared)} of MetaFormers only")
            continue
        for entry in own:
            if entry["network"] is None and entry["plans"] != "default":
                notes.append(f"{name}: {entry['name']} takes patch and batch size of its own planner {entry['plans']}")
            if entry["trainer"] is not None and recipe is not None:
                notes.append(
                    f"{name}: {entry['name']} trains with the recipe of {entry['trainer']}, others with {recipe}"
                )
        notes.append(
            f"{name}: batch, iterations and augmentation are nnU-Net's, equal for all entries; patches too, unless a "
            "network needs a multiple that nnU-Net's patch is not (run.json says so)"
        )
    return notes
