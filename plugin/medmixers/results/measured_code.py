"""The code that each section of measured.json measures, and its digest: it tells which figures are older than the code.

The peers' own code is not in it, nor are the scripts that measure.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from medmixers.files import code_digest

PACKAGE = Path("plugin", "medmixers")  # in a checkout
DIGITS = 16


DEPTHWISE = ("depthwise", "depthwise_triton", "plain_depthwise", "fastest", "operators")
# mixer, or file of networks/ -> files of kernels/ that it computes with; all of them use eager.py too
KERNELS: Mapping[str, tuple[str, ...]] = {
    "pooling": ("average_pool", "operators"),
    "grouped_conv": DEPTHWISE,
    "sep_conv": DEPTHWISE,
    "local_attention": ("flex_attention", "tile_attention"),
    "random_mixing": ("random_rows",),
    "token_unet": ("instance_norm", "upsampling"),
    "token_unet_released": ("instance_norm",),
}


def _kernels(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(f"kernels/{kernel}.py" for name in names for kernel in KERNELS.get(name, ())))


def _mixers(*names: str) -> tuple[str, ...]:
    return ("mixers/build.py", *(f"mixers/{name}.py" for name in names), *_kernels(names))


def _networks(*names: str) -> tuple[str, ...]:
    """Without factory.py: it checks options and passes them on; variants.py says what a name builds."""
    return ("variants.py", "kernels/eager.py", "layers", *(f"networks/{name}.py" for name in names), *_kernels(names))


KEUTH = _mixers(
    "identity", "pooling", "conv", "grouped_conv", "local_attention", "global_attention", "random_mixing"
)  # fmt: skip
CONVFORMER = _mixers("sep_conv")
CLASSIFIERS = ("metaformer", "blocks", "classifier")
SEGFORMER = ("metaformer", "blocks", "segformer", "deep_supervision")
TOKEN_UNETS = ("token_unet", "token_unet_released", "token_transformer", "token_mlp_mixer", "deep_supervision")
RUNNING = ("bundle_runtime", "images", "datasets/image_files.py", "datasets/raw_format.py", "datasets/raw_checks.py")
BENCHMARK = (*_networks(*CLASSIFIERS, *TOKEN_UNETS), *KEUTH, *CONVFORMER)
TRAINERS = (
    "nnunet/accumulation.py", "nnunet/architecture.py", "nnunet/same_network.py", "nnunet/schedule.py",
    "nnunet/strides.py", "nnunet/timed.py", "nnunet/trainer.py", "nnunet/trainer_classes.py", "nnunet/trainers",
    "bundle_runtime/allocator.py",
)  # fmt: skip
IN_NNUNET = (*_networks(*SEGFORMER, *TOKEN_UNETS), "nnunet", "bundle_runtime/allocator.py")
# kind of section, and clients.json -> files and folders of the package that its figures depend on
MEASURED_CODE: Mapping[str, tuple[str, ...]] = {
    "benchmark": BENCHMARK,
    "allocator": BENCHMARK,
    "costs": ("variants.py", "kernels", "layers", "mixers", "networks", "bundle_runtime/allocator.py"),
    "runtimes": (
        *_networks(*CLASSIFIERS, *SEGFORMER, *TOKEN_UNETS), *KEUTH, *CONVFORMER,
        "bundle_runtime/openvino_inference.py",
    ),
    "limits": (
        *_networks(*CLASSIFIERS), *_mixers("pooling", "grouped_conv", "random_mixing"),
    ),
    "gradient norms": (*_networks(*CLASSIFIERS), *_mixers("local_attention")),
    "planner memory": (*_networks(*SEGFORMER, *TOKEN_UNETS, "med_next", "med_blocks"), *KEUTH, "nnunet/memory.py"),
    "gpu training": (*_networks(*SEGFORMER), *_mixers("grouped_conv"), *RUNNING),
    "large images": RUNNING,
    "start-up": (
        "cli", "factory.py", "registry.py", *_networks(*SEGFORMER, *CLASSIFIERS), *_mixers("grouped_conv"), *RUNNING,
    ),
    "demo": (*IN_NNUNET, *_mixers("identity", "grouped_conv"), *RUNNING),
    "compare_nnunet": (*IN_NNUNET, *KEUTH),
    "laptop metaformer": (*_networks(*SEGFORMER), *_mixers("grouped_conv"), *TRAINERS, "recipes.py"),
    "laptop token_unet": (*_networks(*TOKEN_UNETS), *TRAINERS, "recipes.py"),
    "demo model": (*_networks(*TOKEN_UNETS), *RUNNING),
    "uncertainty": (*_networks(*SEGFORMER), *_mixers("grouped_conv"), *RUNNING, "clinic/uncertainty"),
    "flag": (*RUNNING, "clinic/uncertainty", "demo/subjects.py"),
    "clients": (
        "bundle_runtime", "bundles/render", "bundles/share", "clinic", "codes.py", "images", "nnunet/bundle.py",
    ),
    "scale networks": (*_networks(*SEGFORMER), *KEUTH),
    "scale mixers": ("kernels/eager.py", "layers", *KEUTH),
    "scale bundles": RUNNING,
    "scale ranks": (*_networks(*SEGFORMER, *TOKEN_UNETS), *_mixers("grouped_conv")),
    "scale loading": (*RUNNING, "datasets/datalist_format.py", "datasets/readings.py"),
}  # fmt: skip


def kind_of(section: str) -> str:
    """The kind of a section of measured.json, "KIND" or "KIND ...". KeyError for none of ``MEASURED_CODE``."""
    kinds = [kind for kind in MEASURED_CODE if section == kind or section.startswith(f"{kind} ")]
    if not kinds:
        raise KeyError(f"{section!r} is no section of measured figures; valid: {', '.join(MEASURED_CODE)}")
    return max(kinds, key=len)


def measured_code_digest(checkout: str | Path, section: str, *, commit: str | None = None) -> str:
    """First 16 digits of the digest of the code that a section measures.

    Args:
        checkout: of this project.
        section: of measured.json.
        commit: whose files are read instead of the checkout's. CalledProcessError where git has no such commit.
    """
    rooms = MEASURED_CODE[kind_of(section)]
    if commit is None:
        return code_digest(Path(checkout) / PACKAGE, rooms)[:DIGITS]
    with tempfile.TemporaryDirectory() as folder:
        command = ["git", "archive", commit, PACKAGE.as_posix()]
        archive = subprocess.run(command, cwd=checkout, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        return measured_code_digest(folder, section)


def missing_code(checkout: str | Path, sections: Iterable[str] = MEASURED_CODE) -> list[str]:
    """Files and folders of ``MEASURED_CODE`` that a checkout lacks."""
    rooms = dict.fromkeys(room for section in sections for room in MEASURED_CODE[kind_of(section)])
    return [room for room in rooms if not (Path(checkout) / PACKAGE / room).exists()]
