"""Plans for this package's networks, next to nnU-Net's own, for ``medmixers nnunet plan``.

nnU-Net's ExperimentPlanner does the planning: spacing, normalisation, topology, the search for a patch size. Three
things are ours: the network in the plans, the memory estimate of the search, and the choice of preprocessed data.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset
from nnunetv2.paths import nnUNet_preprocessed

from medmixers.errors import InputError
from medmixers.factory import check_network_options, stage_mixers
from medmixers.files import written_whole
from medmixers.nnunet.architecture import (
    NETWORK_CLASS_NAME,
    check_segmentation,
    create_network_from_plans,
    network_option_names,
    pairwise_excess,
    plans_architecture,
    stage_tokens,
)
from medmixers.nnunet.memory import GIB, TrainingMemory, training_memory
from medmixers.nnunet.preprocessed import (
    STOCK_PLANS,
    check_description,
    check_plans_file,
    choose_data,
    dataset_id,
    dataset_name,
    nnunet_reason,
)
from medmixers.progress import Announce, silent
from medmixers.registry import check_options

LARGEST_PATCH = 2**31  # voxels: no GPU trains on more
SMALLEST_PATCH = 32  # voxels along an axis, or the data's size: below it a plan makes no sense and is refused
PLANNED_OPTIONS = {"aux_heads", "input_size", "stage_strides", "strides"}  # the planner sets these


class MedMixersPlanner(ExperimentPlanner):
    """nnU-Net's planner with one of this package's networks.

    Args:
        dataset_name_or_id, gpu_memory_target_in_gb, plans_name: as of ExperimentPlanner, and its further arguments.
        network: a segmentation network.
        options: options of the network.
        patch_sizes: number of axes -> patch size to plan with, in the order of the preprocessed axes. The patches of
            other configurations are searched.
        announce: called with each patch that the search tries.
    """

    dataset_name: str

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float = 8,
        preprocessor_name: str = "DefaultPreprocessor",
        plans_name: str = "MedMixersPlans",
        overwrite_target_spacing: Sequence[float] | None = None,
        suppress_transpose: bool = False,
        *,
        network: str,
        options: Mapping[str, Any],
        patch_sizes: Mapping[int, Sequence[int]],
        announce: Announce = silent,
    ) -> None:
        super().__init__(
            dataset_name_or_id, gpu_memory_target_in_gb, preprocessor_name, plans_name, overwrite_target_spacing,
            suppress_transpose,
        )  # fmt: skip
        self.network, self.options, self.patch_sizes = network, dict(options), dict(patch_sizes)
        self.announce = announce
        # The stock search compares estimate(batch 2) with reference * target / 8: these values put both in GiB.
        self.UNet_reference_val_2d = self.UNet_reference_val_3d = self.UNet_reference_val_corresp_GB
        self.UNet_reference_val_corresp_bs_2d = self.UNet_reference_val_corresp_bs_3d = 2
        self.estimates: dict[str, float] = {}
        self.is_preprocessed: dict[str, bool] = {}
        self._counted: dict[str, TrainingMemory] = {}
        self._median: list[int] = []

    def static_estimate_VRAM_usage(
        self, patch_size: Sequence[int], input_channels: int, output_channels: int, _: str, arch_kwargs: dict, __: Any
    ) -> float:
        """GiB of our network at batch 2 for a patch and the strides that nnU-Net tries on it; inf for too many tokens.

        Raises InputError where the smallest patch does not fit: nnU-Net would go on to smaller ones.
        """
        if len(patch_size) in self.patch_sizes:
            return 1e-9  # no search
        self.announce(f"estimate patch {' x '.join(map(str, patch_size))}")
        architecture, patch = self._architecture(patch_size, arch_kwargs["strides"], arch_kwargs["kernel_sizes"])
        memory = self._memory(architecture, patch, input_channels, output_channels)
        excess = self._excess(architecture, patch, memory)
        axes = list(zip(patch_size, self._median, strict=True))
        small = all(size <= min(SMALLEST_PATCH, median) for size, median in axes)
        if excess and (small or any(size < min(self.UNet_featuremap_min_edge_length, median) for size, median in axes)):
            raise InputError(excess)
        return float("inf") if excess else memory.gib(2)

    def get_plans_for_configuration(
        self,
        spacing: Sequence[float],
        median_shape: Sequence[int],
        data_identifier: str,
        approximate_n_voxels_dataset: float,
        _cache: dict,
    ) -> dict[str, Any]:
        """nnU-Net's configuration with our network, patch and batch size; shared preprocessed data where they fit."""
        self._median = [int(size) for size in median_shape][: len(spacing)]
        plan = super().get_plans_for_configuration(
            spacing, median_shape, data_identifier, approximate_n_voxels_dataset, _cache
        )
        patch, planned = plan["patch_size"], plan["architecture"]["arch_kwargs"]
        pools, kernels = planned["strides"], planned["kernel_sizes"]
        if len(patch) in self.patch_sizes:
            patch = self.patch_sizes[len(patch)]
            topology = get_pool_and_conv_props(spacing, patch, self.UNet_featuremap_min_edge_length, 999999)
            pools, kernels, patch = topology[1:4]
        architecture, patch = self._architecture(patch, pools, kernels)
        memory = self._memory(architecture, patch, self._channels, len(self.dataset_json["labels"]))
        excess = self._excess(architecture, patch, memory)
        if excess:
            raise InputError(excess)
        room = int((self.UNet_vram_target_GB * GIB - memory.fixed) // memory.sample)
        # nnU-Net's own bounds: at most 5 % of the dataset's voxels in a batch, at least 2 patches
        share = round(approximate_n_voxels_dataset * self.max_dataset_covered / np.prod(patch, dtype=np.float64))
        batch_size = max(min(room, share), self.UNet_min_batch_size)
        plan.update(patch_size=patch, batch_size=batch_size, architecture=architecture)
        configuration = data_identifier.removeprefix(self.plans_identifier + "_")
        self.estimates[configuration] = memory.gib(batch_size)
        plan["data_identifier"], self.is_preprocessed[configuration] = choose_data(
            self.dataset_name,
            configuration,
            plan,
            self.dataset_fingerprint["foreground_intensity_properties_per_channel"],
            cases=self.dataset,
            transpose=self.determine_transpose()[0],
            plans_name=self.plans_identifier,
        )
        return plan

    def save_plans(self, plans: dict[str, Any]) -> None:
        """As nnU-Net does, but whole or not at all: it keeps the configurations of the file before."""
        dataset = self.dataset_name
        target = Path(nnUNet_preprocessed, dataset, f"{self.plans_identifier}.json")
        with written_whole(target) as partial:
            if target.is_file():
                shutil.copyfile(target, partial)
            try:
                self.dataset_name = os.path.relpath(partial.parent, nnUNet_preprocessed)
                super().save_plans(plans)
            finally:
                self.dataset_name = dataset

    @property
    def _channels(self) -> int:
        return len(self.dataset_json.get("channel_names", self.dataset_json.get("modality")))

    def _architecture(
        self, patch_size: Sequence[int], pools: Sequence[Sequence[int]], kernels: Sequence[Sequence[int]]
    ) -> tuple[dict[str, Any], list[int]]:
        return plans_architecture(
            self.network,
            patch_size=[int(size) for size in patch_size],
            pools=pools,
            kernels=kernels,
            options=self.options,
        )

    def _memory(
        self, architecture: Mapping[str, Any], patch_size: Sequence[int], in_channels: int, out_channels: int
    ) -> TrainingMemory:
        key = json.dumps([architecture["arch_kwargs"], list(patch_size)])
        if key not in self._counted:
            options = {**architecture["arch_kwargs"], "deep_supervision": True}
            build = partial(create_network_from_plans, in_channels, out_channels, **options)
            self._counted[key] = training_memory(build, in_channels, patch_size)
        return self._counted[key]

    def _excess(self, architecture: Mapping[str, Any], patch_size: Sequence[int], memory: TrainingMemory) -> str:
        """Message for a network that cannot train on this patch; empty where it can."""
        if excess := pairwise_excess(architecture, patch_size):
            return excess
        if memory.gib(2) <= self.UNet_vram_target_GB:
            return ""
        tokens = stage_tokens(architecture, patch_size)
        mixers = f" with {', '.join(sorted(stage_mixers(self.network, self.options)))}" if tokens else ""
        counted = f", {tokens[0]} tokens in the first stage," if tokens else ""
        return (
            f"{self.network}{mixers} does not fit into {self.UNet_vram_target_GB:g} GB: a patch of "
            f"{' x '.join(map(str, patch_size))}{counted} needs about {memory.gib(2):.1f} GB at batch size 2"
        )


def plan_network(
    dataset: str | int,
    network: str,
    *,
    gpu_memory_gb: float = 8,
    plans_name: str | None = None,
    patch_size: Sequence[int] | None = None,
    announce: Announce = silent,
    **options: Any,
) -> str:
    """Write the plans of a network for a data set that nnU-Net has planned or fingerprinted.

    Args:
        dataset: name or id, as the stock commands take it.
        network: a segmentation network.
        gpu_memory_gb: memory of a training step in GiB; estimated, see :mod:`medmixers.nnunet.memory`.
        plans_name: of the file and for ``-p``; None makes it of the network and its options.
        patch_size: in voxels, for all configurations with that many axes, instead of nnU-Net's search.
        announce: called with the name of each step.
        options: options of the network.

    Returns:
        What was planned, and the commands that come next.

    Raises:
        InputError: an unknown network or option, a name that nnU-Net uses, a data set without a fingerprint, or a
            network that does not fit or that deep supervision cannot train.
    """
    check_segmentation(network)
    valid = set(network_option_names(network)) - PLANNED_OPTIONS
    owner = f"a plan of network {network!r}"
    check_options(owner, options, sorted(valid), listing=f"medmixers list options {network}")
    check_network_options(network, options)
    name = plans_name or default_plans_name(network, options)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", name) or name == STOCK_PLANS:
        raise InputError(f"plans_name must be letters and digits and not {STOCK_PLANS}, got {name!r}")
    if not 0 < gpu_memory_gb < float("inf"):
        raise InputError(f"gpu_memory_gb must be positive and finite, got {gpu_memory_gb:g}")
    if patch_size is not None:
        if len(patch_size) not in (2, 3) or min(patch_size) < 1:
            raise InputError(f"patch_size must be 2 or 3 positive integers, got {tuple(patch_size)}")
        if prod(patch_size) > LARGEST_PATCH:
            raise InputError(f"patch_size may have at most {LARGEST_PATCH:,} voxels, got {tuple(patch_size)}")
    patches = {} if patch_size is None else {len(patch_size): patch_size}
    ours = partial(MedMixersPlanner, network=network, options=options, patch_sizes=patches, announce=announce)
    folder = dataset_name(dataset)
    check_description(folder)
    check_plans_file(folder, name, network_class=NETWORK_CLASS_NAME)
    return _summary(*_plan(folder, ours, gpu_memory_gb, name))


def _plan(
    dataset: str, make_planner: Callable[..., MedMixersPlanner], gpu_memory_gb: float, name: str
) -> tuple[str, dict[str, Any], MedMixersPlanner]:
    """Let nnU-Net plan with our planner: data set, plans, and the planner for what it found out."""
    planners: list[MedMixersPlanner] = []

    def planner(*arguments: Any, **keywords: Any) -> MedMixersPlanner:
        planners.append(make_planner(*arguments, **keywords))
        return planners[-1]

    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints whole plans
            plans, _ = plan_experiment_dataset(
                dataset_id(dataset), planner, gpu_memory_target_in_gb=gpu_memory_gb, overwrite_plans_name=name
            )
    except RuntimeError as error:
        if not str(error).startswith("Fingerprint missing"):
            raise
        raise InputError(f"dataset {dataset}: {nnunet_reason(error)}") from None
    return dataset, plans, planners[0]


def default_plans_name(network: str, options: Mapping[str, Any]) -> str:
    """``MetaformerSegformerS12GroupedConvKernelSize5Plans``: one file, and so one results folder, per network."""
    words = [network, *(str(value) if key == "mixer" else f"{key}_{value}" for key, value in options.items())]
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[^A-Za-z0-9]+", " ".join(words))) + "Plans"


def _summary(dataset: str, plans: Mapping[str, Any], planner: MedMixersPlanner) -> str:
    name, configurations = plans["plans_name"], plans["configurations"]
    folder = Path(nnUNet_preprocessed) / dataset
    lines, missing = [f"{folder / name}.json"], []
    for configuration, gib in planner.estimates.items():
        row = configurations.get(configuration)
        if row is None:
            continue  # nnU-Net planned a 3d_lowres and dropped it
        strides = " ".join("x".join(map(str, stride)) for stride in row["architecture"]["arch_kwargs"]["strides"])
        patch = " x ".join(map(str, row["patch_size"]))
        lines.append(
            f"{configuration}: patch {patch}, batch size {row['batch_size']}, strides {strides}, "
            f"about {gib:.1f} GB, data {row['data_identifier']}"
        )
        if not planner.is_preprocessed[configuration]:
            missing.append(configuration)
    if missing:
        command = ["nnUNetv2_preprocess", "-d", str(dataset_id(dataset)), "-plans_name", name, "-c", *missing]
        lines.append(f"preprocess first: {shlex.join(command)}")
    command = ["nnUNetv2_train", str(dataset_id(dataset)), next(iter(planner.estimates)), "0", "-p", name]
    lines.append(f"train: {shlex.join(command)}")
    return "\n".join(lines)
