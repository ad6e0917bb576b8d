"""A bundle under check: its configs, synthetic data, one training and its packed form, which the checks share."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medmixers.bundles.share.archive import open_archive
from medmixers.bundles.share.carried import vendored_name
from medmixers.bundles.share.pack import pack_bundle
from medmixers.bundles.verify.hidden import environment_without_package
from medmixers.bundles.verify.synthetic import is_classification, write_synthetic
from medmixers.peers import split_name
from medmixers.processes import run_python

TIMEOUT = 1800  # seconds for one command


class FailedCheck(Exception):
    """The fault of a bundle, in one line."""


class SkippedCheck(Exception):
    """A check that cannot be made here; the message says why."""


def demand(holds: Any, message: str) -> None:
    """Raise FailedCheck unless it holds."""
    if not holds:
        raise FailedCheck(message)


def walk(value: Any) -> Iterator[Any]:
    """A value and all that it holds."""
    yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(item)


def _first_with(key: str, config: Any) -> dict[str, Any] | None:
    """The first dict with the key in a config."""
    return next((value for value in walk(config) if isinstance(value, dict) and key in value), None)


@dataclass(frozen=True)
class Subject:
    """A bundle under check.

    Args:
        root: its folder; checks may write weights and outputs into ``scratch`` only.
        scratch: an empty folder.
        schema: file of the metadata's JSON schema; None: it is downloaded, or not looked at where ``offline``.
        offline: nothing may be downloaded.
    """

    root: Path
    scratch: Path
    schema: Path | None = None
    offline: bool = False

    def config(self, name: str) -> dict[str, Any]:
        """Content of configs/NAME.json."""
        try:
            content = json.loads((self.root / "configs" / f"{name}.json").read_text("utf-8"))
        except RecursionError:
            raise FailedCheck(f"configs/{name}.json nests too deeply") from None
        if not isinstance(content, dict):
            raise FailedCheck(f"configs/{name}.json must hold an object")
        return content

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """Content of configs/metadata.json."""
        return self.config("metadata")

    @cached_property
    def dataset(self) -> Path:
        """A synthetic data set in the format of the task."""
        folder = self.scratch / "Dataset001_Synthetic"
        if self.is_of_nnunet:
            ending = self.config("nnunet/dataset")["file_ending"]
            if ending not in (".nii.gz", ".png"):
                raise SkippedCheck(f"synthetic images are .nii.gz or .png, the model's are {ending}")
            dims = 3 if ending == ".nii.gz" else 2
            return write_synthetic(folder, self.metadata, {"spatial_dims": dims, "label_values": (0, 1)})
        train = self.config("train")
        expected, reader = _first_with("image_reader", train.get("preflight")), train.get("image_reader")
        if expected is None or not isinstance(reader, dict) or "spatial_dims" not in reader:
            raise FailedCheck("train.json has no preflight and image_reader that say what data the bundle takes")
        regions = _first_with("regions", train)
        expected = {**expected, "spatial_dims": reader["spatial_dims"]}
        return write_synthetic(folder, self.metadata, expected, regions=regions["regions"] if regions else ())

    @property
    def is_of_nnunet(self) -> bool:
        """Whether it was made of a trained nnU-Net model: it predicts with nnU-Net's functions, and cannot train."""
        return (self.root / "configs" / "nnunet" / "plans.json").is_file()

    @property
    def has_peer(self) -> bool:
        """Whether the network is another library's, such as monai:SwinUNETR."""
        return split_name(self.config("inference").get("network_name", ""))[0] != ""

    def demand_training(self) -> None:
        """Raise SkippedCheck for a bundle without training configs by its nature."""
        if self.is_of_nnunet:
            raise SkippedCheck("made of a trained nnU-Net model: it has no training configs")

    @property
    def is_classification(self) -> bool:
        """Whether the network gives one vector per image."""
        return is_classification(self.metadata)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """(1, C, *spatial) of the network's input, by the metadata."""
        image = self.metadata["network_data_format"]["inputs"]["image"]
        return (1, image["num_channels"], *image["spatial_shape"])

    def network(self, *, device: str = "cpu") -> Any:
        """The network of inference.json, in evaluation mode, with its start weights."""
        import torch
        from monai.bundle import ConfigParser

        parser = ConfigParser()
        parser.read_config(str(self.root / "configs" / "inference.json"))
        parser["bundle_root"] = str(self.root)
        with torch.device(device):
            return parser.get_parsed_content("network_def").eval()

    def run(
        self,
        configs: Sequence[str],
        keys: Mapping[str, str],
        *,
        root: Path | None = None,
        ranks: int = 1,
        hidden: bool = False,
    ) -> str:
        """``python -m monai.bundle run`` from a foreign working directory; its output.

        Args:
            configs: names of config files, the later laid over the first.
            keys: overrides.
            root: the bundle's folder, where it is another than the subject's.
            ranks: processes, started by torchrun on the CPU.
            hidden: in an environment that has what the bundle requires and nothing else.
        """
        root = root or self.root
        files = [str(root / "configs" / f"{name}.json") for name in configs]
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
        command = [*torchrun, "-m", "monai.bundle", "run", "--bundle_root", str(root)]
        command += ["--config_file", str(files) if len(files) > 1 else files[0]]
        for key, value in keys.items():
            command += [f"--{key}", value]
        environment = dict(os.environ)
        if hidden:
            environment = environment_without_package(self.scratch / "hidden", root, self.metadata)
        if ranks > 1:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        return self.python(command, environment)

    def python(self, arguments: list[str], environment: Mapping[str, str] | None = None) -> str:
        """Output of a Python process that must end well, from a foreign working directory."""
        elsewhere = self.scratch / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        done = run_python(arguments, cwd=elsewhere, env=environment, timeout=TIMEOUT)
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        demand(done.returncode == 0, f"{' '.join(arguments[1:4])} ... ended with: {last}")
        return done.stdout

    def train(self, folder: str, *configs: str, ranks: int = 1, **keys: str) -> Path:
        """A short training on the synthetic data; the folder of its checkpoints."""
        place = self.scratch / folder
        options = {"epochs": "2", "val_interval": "1", "dataset_dir": str(self.dataset), **keys}
        options |= {"ckpt_dir": str(place), "output_dir": str(place / "eval")}
        self.run(("train", *configs), options, ranks=ranks)
        demand((place / "model.pt").is_file(), "training left no model.pt")
        return place

    @cached_property
    def trained(self) -> Path:
        """The folder of a training of two epochs."""
        return self.train("trained")

    @cached_property
    def weights(self) -> Path:
        """models/model.pt: the bundle's own, or those of the short training where it ships without."""
        path = self.root / "models" / "model.pt"
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            shutil.copyfile(self.trained / "model.pt", path)
        return path

    @cached_property
    def unpacked(self) -> tuple[Path, Mapping[str, str]]:
        """The bundle with its own copy of the package, as from its zip; and which exports it lacks, with the reason."""
        if vendored_name(self.root):
            names = ("model.ts", "model.onnx")
            lacks = {name: "not in the zip" for name in names if not (self.root / "models" / name).is_file()}
            return self.root, lacks
        packed = pack_bundle(self.root, weights=self.weights, out=self.scratch / "packed")
        return open_archive(packed.path, self.scratch / "unpacked"), packed.missing

    @cached_property
    def held_out(self) -> list[Any]:
        """Images to predict, as the configs list them: paths, or lists of the channels' paths."""
        from monai.bundle import ConfigParser

        parser = ConfigParser()
        parser.read_config(str(self.root / "configs" / "inference.json"))
        parser["bundle_root"], parser["dataset_dir"] = str(self.root), str(self.dataset)
        return list(parser.get_parsed_content("datalist"))
