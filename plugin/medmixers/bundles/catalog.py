"""Which MONAI Bundles there are: one frozen row each, task x network x options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from medmixers.errors import InputError
from medmixers.factory import needs_input_size
from medmixers.recipes import RECIPES, PictureAugmentation, TrainingRecipe
from medmixers.registry import Registry
from medmixers.results import versions_tested
from medmixers.tasks import TASKS, TaskSpec
from medmixers.variants import NETWORKS

# Metadata of a bundle: the versions that the tests ran on.
TESTED = versions_tested()
MONAI_VERSION, PYTORCH_VERSION, NUMPY_VERSION = TESTED["monai"], TESTED["torch"], TESTED["numpy"]
PACKAGE_VERSIONS = {name: TESTED[name] for name in ("nibabel", "pytorch-ignite", "fire", "tqdm")}
PICTURE_PACKAGES = {"pillow": TESTED["pillow"]}
AUGMENTATION_PACKAGES = {name: TESTED[name] for name in ("timm", "torchvision")}  # of recipes for pictures
# Training writes TensorBoard files, evaluation measures HD95, pydicom reads DICOM.
OPTIONAL_PACKAGES = {name: TESTED[name] for name in ("tensorboard", "scipy", "pydicom")}
FIRST_VERSION = {"0.1.0": "First version, without weights."}


@dataclass(frozen=True, kw_only=True)
class BundleRow:
    """One bundle.

    Args:
        task_spec: the task.
        network: name in ``NETWORKS``, of the task's kind.
        recipe: name in ``RECIPES``.
        network_options: options of ``create_network`` (those of the recipe are added to them).
        label: end of the bundle's name: what sets it apart from others of the same task.
        roi_size: patch size of training and of the sliding window, in voxels of the task's grid. Two values for a
            3D task: the network is 2D and sees slices across the third axis. None: whole images, resized to the
            task's ``image_size``.
        note: sentence for the README, on what sets this bundle apart.
        version: of the bundle, semantic.
        changelog: version -> what changed.
        evaluated_part: what evaluate.json scores: "test", or "validation" where the data set has no test part.
        overlap: of neighbouring windows, a fraction of the window.
        cache_rate: part of the training images that is kept in memory.
        batch_size: images per batch and update, instead of the recipe's batches and their accumulation.
        num_iterations_per_epoch: batches per epoch, drawn at random; None: one pass over the training images.
    """

    task_spec: TaskSpec
    network: str
    recipe: str
    label: str
    roi_size: tuple[int, ...] | None = None
    note: str = ""
    version: str = "0.1.0"
    changelog: Mapping[str, str] = field(default_factory=lambda: FIRST_VERSION)
    evaluated_part: str = "test"
    overlap: float = 0.25
    cache_rate: float = 0.0
    batch_size: int | None = None
    num_iterations_per_epoch: int | None = None
    network_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        task, recipe = self.task_spec, RECIPES[self.recipe]
        if NETWORKS[self.network].task != task.task:
            raise InputError(f"network {self.network!r} is not for {task.task}, as task {task.name!r} is")
        if (recipe.dice_weight == 0) != (task.task == "classification"):
            raise InputError(f"recipe {self.recipe!r} is not for {task.task}, as task {task.name!r} is")
        self._check_size()
        if task.multi_label and self.roi_size is not None and recipe.patch_sampling != "random":
            raise InputError(
                f"recipe {self.recipe!r} samples patches by exclusive labels, which task {task.name!r} has not; "
                "give one with patch_sampling 'random'"
            )
        if self.version not in self.changelog:
            raise InputError(f"version {self.version!r} is not in the changelog: {', '.join(self.changelog)}")
        if recipe.pictures is not None:
            self._check_pictures(recipe.pictures)
        of_metaformers = recipe.network_options if NETWORKS[self.network].encoder else {}
        of_size = recipe.drop_path_of.get(self.network)
        drop_path = {} if of_size is None else {"drop_path_rate": of_size}
        options = {**self.network_options, **of_metaformers, **drop_path}
        object.__setattr__(self, "network_options", MappingProxyType(options))
        object.__setattr__(self, "changelog", MappingProxyType(dict(self.changelog)))

    def _check_size(self) -> None:
        task, dims = self.task_spec, self.task_spec.spatial_dims
        if self.roi_size is None and task.image_size is None:
            raise InputError(f"task {task.name!r} has no image_size, so its bundles need a roi_size of {dims} values")
        if self.roi_size is None:
            return
        if task.task == "classification" or task.image_size is not None:
            raise InputError(f"task {task.name!r} is of whole images: no roi_size, got {self.roi_size}")
        if len(self.roi_size) not in {dims, 2} or min(self.roi_size) < 1:
            slices = ", or 2 for slices" if dims == 3 else ""
            raise InputError(f"roi_size must have {dims} values above 0{slices}, got {self.roi_size}")

    def _check_pictures(self, pictures: PictureAugmentation) -> None:
        task, channels = self.task_spec, len(self.task_spec.channels)
        start = f"recipe {self.recipe!r} is for pictures of"
        if task.spatial_dims != 2 or channels not in (1, 3) or task.intensity not in ("unit", "window"):
            shown = f"{task.spatial_dims}D, {channels} channel(s) and intensity {task.intensity!r}"
            raise InputError(f"{start} 1 or 3 channels with values from 0 to 1; task {task.name!r} has {shown}")
        if task.multi_label and pictures.mixes:
            raise InputError(f"{start} single classes, which it mixes; task {task.name!r} is multi_label")

    @property
    def name(self) -> str:
        """Name of the bundle and of its folder."""
        return f"{self.task_spec.name}_{self.label}"

    @property
    def training(self) -> TrainingRecipe:
        """The row of ``RECIPES``, with the batch of this bundle where it has one of its own."""
        recipe = RECIPES[self.recipe]
        if self.batch_size is None:
            return recipe
        notes = f"{recipe.notes} The batch of this bundle is not the recipe's: it follows the data set."
        return replace(recipe, batch_size=self.batch_size, accumulate_batches=1, patches_per_image=1, notes=notes)

    @property
    def epochs(self) -> int:
        """Length of the training on this task."""
        return self.training.epochs_of.get(self.task_spec.name, self.training.epochs)

    @property
    def size(self) -> tuple[int, ...]:
        """Spatial size that the network sees."""
        return self.roi_size or self.task_spec.image_size or ()

    @property
    def sees_slices(self) -> bool:
        """Whether a 2D network works through a volume."""
        return len(self.size) < self.task_spec.spatial_dims

    @property
    def is_bound_to_size(self) -> bool:
        """Whether the network is built for ``size`` and takes it as ``input_size``."""
        return needs_input_size(self.network, self.network_options)


def label_of(name: str) -> str:
    """The end of a bundle's name, safe in a folder's: "monai_swinunetr" of "monai:SwinUNETR"."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


BUNDLES: Registry[BundleRow] = Registry("bundle", listing="medmixers list bundles")

# The seven token mixers of Keuth et al. 2025, at the kernel that did best over all of its data sets.
STUDY_MIXERS: Mapping[str, Mapping[str, Any]] = {
    "identity": {},
    "pooling": {"kernel_size": 3},
    "conv": {"kernel_size": 3},
    "grouped_conv": {"kernel_size": 3},
    "local_attention": {"kernel_size": 3},
    "global_attention": {},
    "random_mixing": {},
}

# Rules of the released 3D code of Keuth et al., for its own 3D tasks (plugin/docs/networks.md says where ours differ).
RELEASED_3D: Mapping[str, Mapping[str, Any]] = {
    "pooling": {"mixer_options": {"identity_on_small_maps": True}},
    "local_attention": {"mixer_options": {"full_attention_tokens": 63}},
    "global_attention": {"positional_embedding": True},
}


def study_row(
    task: TaskSpec,
    mixer: str,
    *,
    network: str = "",
    recipe: str,
    roi_size: tuple[int, ...] | None = None,
    roi_size_of: Mapping[str, tuple[int, ...]] | None = None,
    options: Mapping[str, Any] | None = None,
    cache_rate: float = 0.0,
    released_3d: bool = False,
) -> BundleRow:
    """A MetaFormer with one token mixer on a task.

    Args:
        task: what it is for.
        mixer: its token mixer.
        network: name in ``NETWORKS``; by default the S12 of the task's kind.
        recipe: name in ``RECIPES``.
        roi_size: as :class:`BundleRow` has it.
        roi_size_of: mixer -> another ``roi_size``, for those whose cost grows with the square of the positions.
        options: further options of the network.
        cache_rate: as :class:`BundleRow` has it.
        released_3d: whether small feature maps and positional embeddings follow the released 3D code.
    """
    classifies = task.task == "classification"
    released = RELEASED_3D.get(mixer, {}) if released_3d else {}
    mixing = {"mixer": mixer, **STUDY_MIXERS.get(mixer, {}), **released, **(options or {})}
    if classifies and task.spatial_dims == 2 and mixer == "global_attention":
        mixing["positional_embedding"] = True  # in 2D in classification only
    smaller, note = (roi_size_of or {}).get(mixer), ""
    if smaller is not None:
        sizes = " x ".join(map(str, smaller)), " x ".join(map(str, roi_size or ()))
        note = f"Its patches are {sizes[0]}, those of the task's other mixers {sizes[1]}: {mixer} costs memory or "
        note += "time by the square of the positions."
    return BundleRow(
        task_spec=task,
        network=network or ("metaformer_s12" if classifies else "metaformer_segformer_s12"),
        recipe=recipe,
        label=mixer,
        network_options=mixing,
        roi_size=smaller or roi_size,
        note=note,
        cache_rate=cache_rate,
    )


CUBES = {"global_attention": (96, 96, 96), "random_mixing": (64, 64, 64)}
SQUARES = {"global_attention": (384, 384), "random_mixing": (256, 256)}
SMALL_CUBES = {"global_attention": (32, 32, 32), "random_mixing": (32, 32, 32)}
# A first patch embedding of stride 2: logits at 1/4 of the resolution cannot draw 2 mm cortex.
FINE = {"stem_stride": 2}
STUDY: Mapping[str, Mapping[str, Any]] = {
    **{
        name: {"recipe": "keuth2025_classification"}
        for name in (
            "colon_pathology_classification",
            "skin_lesion_classification",
            "chest_xray_pneumonia_classification",
            "abdominal_organ_classification",
        )
    },
    "lung_nodule_classification": {"recipe": "keuth2025_classification", "released_3d": True},
    "chest_xray_segmentation": {"recipe": "keuth2025_segmentation", "cache_rate": 1.0},
    "wrist_bone_segmentation": {"recipe": "keuth2025_segmentation", "cache_rate": 1.0},
    "breast_tissue_segmentation": {
        "recipe": "keuth2025_segmentation_slides",
        "roi_size": (768, 768),
        "roi_size_of": SQUARES,
    },
    "abdomen_ct_segmentation": {
        "recipe": "keuth2025_segmentation_volumes",
        "roi_size": (128, 128, 128),
        "roi_size_of": CUBES,
        "released_3d": True,
    },
    "brain_tissue_segmentation": {
        "recipe": "keuth2025_segmentation_short",
        "roi_size": (48, 48, 48),
        "roi_size_of": SMALL_CUBES,
        "options": FINE,
        "cache_rate": 1.0,
    },
}
TUMOR_NETWORKS = ("unet_star_star", "token_unet_no_transformer", "token_unet", "token_unet_released_8_mlp_mixer")
XUE2026 = {  # task -> network, recipe, roi_size
    "covid_ct_classification": ("med_next", "xue2026_classification", None),
    "monkeypox_skin_classification": ("med_next", "xue2026_classification", None),
    "covid_ct_slice_classification": ("med_next", "xue2026_classification", None),
    "multi_organ_ct_segmentation": ("med_unext", "xue2026_segmentation", (224, 224)),
    "cardiac_mri_segmentation": ("med_unext", "xue2026_segmentation", (224, 224)),
}

for _row in (
    *(study_row(TASKS[name], mixer, **options) for name, options in STUDY.items() for mixer in STUDY_MIXERS),
    *(
        BundleRow(
            task_spec=TASKS["brain_tumor_segmentation"],
            network=name,
            recipe="tshimanga2026",
            label=name,
            roi_size=(128, 128, 128),
            evaluated_part="validation",
        )
        for name in TUMOR_NETWORKS
    ),
    *(
        BundleRow(
            task_spec=TASKS[name],
            network=network,
            recipe=recipe,
            label=network,
            roi_size=roi_size,
            cache_rate=1.0 if roi_size else 0.0,  # volumes that lie in memory are not read for 12 slices
        )
        for name, (network, recipe, roi_size) in XUE2026.items()
    ),
):
    BUNDLES.register(_row.name, _row)
