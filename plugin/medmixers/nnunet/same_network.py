"""All folds of a trained model need one network and one patch: nnU-Net predicts all of them by one plans.json.

Strides change no shape of a MetaFormer's weights, so other strides load them without a word and predict other labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medmixers.checkpoints import read_checkpoint
from medmixers.errors import InputError


def check_same_network(
    checkpoint: Path, plans: Mapping[str, Any], configuration: str, *, owner: str, remedy: str
) -> None:
    """Raise InputError if a checkpoint of nnU-Net was trained with another network or patch than the plans have.

    Args:
        checkpoint: file that nnUNetTrainer wrote. One without plans, as of a portable model, is not compared.
        plans: content of a plans file.
        configuration: of the plans.
        owner: what ``plans`` belong to, for the message.
        remedy: what to do, for the message.
    """
    saved = read_checkpoint(checkpoint, without_tensors=True)
    plans_then = saved.get("init_args", {}).get("plans") if isinstance(saved, dict) else None
    if plans_then is None:
        return
    then, now = (_network(each, configuration) for each in (plans_then, plans))
    changed = [what for what in now if then.get(what) != now[what]]
    if changed:
        texts = "; ".join(f"{what} {_text(then.get(what))} there, {_text(now[what])} in {owner}" for what in changed)
        raise InputError(f"{checkpoint} was trained with another network: {texts}. {remedy}")


def other_folds(model: Path, fold: str) -> list[Path]:
    """One checkpoint of each trained fold of a model's folder but ``fold_FOLD``."""
    found = {file.parent.name: file for file in sorted(model.glob("fold_*/checkpoint_*.pth"))}
    return [file for name, file in found.items() if name != f"fold_{fold}"]


def _network(plans: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """Patch size, class and arguments of the network; a configuration may inherit what it does not hold."""
    rows = json.loads(json.dumps(plans["configurations"]))
    row: dict[str, Any] = {}
    name: str | None = configuration
    while name is not None and name in rows:
        row = {**rows[name], **row}
        name = rows[name].get("inherits_from")
    architecture = row.get("architecture", {})
    return {
        "patch_size": row["patch_size"],
        "network_class_name": architecture.get("network_class_name"),
        **architecture.get("arch_kwargs", {}),
    }


def _text(value: Any) -> str:
    return json.dumps(value).replace('"', "")
