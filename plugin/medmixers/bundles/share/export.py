"""Export a bundle's network to TorchScript and ONNX: python -m medmixers.bundles.share.export FOLDER.

Every export runs in a new process: TorchScript numbers class names per process, so only a new one repeats the bytes.
"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medmixers.checkpoints import read_checkpoint
from medmixers.errors import InputError, MissingPackageError, first_line
from medmixers.processes import run_python

if TYPE_CHECKING:
    from torch import Tensor, nn

# Parts of a TorchScript file: names of source files for tracebacks, and a digest of all parts with those.
OF_THIS_MACHINE = (".debug_pkl", "/serialization_id")
MODELS = {"model.ts": "TorchScript", "model.onnx": "ONNX"}


def export_models(bundle: Path) -> dict[str, str]:
    """Write models/model.ts and models/model.onnx of an unpacked bundle that has weights.

    Both take batches of any size, of images with the spatial shape in the metadata (the sliding window's). Padding and
    pooling are traced for that shape: model.ts refuses another one, and so does ONNX Runtime.

    Returns:
        File name -> reason, for each file that could not be made.
    """
    done = run_python(["-m", __name__, str(bundle)])
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return dict.fromkeys(MODELS, f"exporting ended with: {reason}")
    missing: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return missing


def assert_close(given: Tensor, expected: Tensor) -> None:
    """Raise AssertionError unless two forms of one network agree, up to the order of their sums."""
    import torch

    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-4)


def _export(bundle: Path) -> dict[str, str]:
    import torch
    from monai.bundle import ConfigParser

    torch.manual_seed(0)
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.read_meta(str(bundle / "configs" / "metadata.json"))
    parser["bundle_root"] = str(bundle)
    image = parser["_meta_::network_data_format::inputs::image"]
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(read_checkpoint(bundle / "models" / "model.pt"))
    example = torch.rand(2, image["num_channels"], *image["spatial_shape"])
    missing = {}
    for (name, kind), write in zip(MODELS.items(), (_torchscript, _onnx), strict=True):
        target = bundle / "models" / name
        try:
            with torch.no_grad():
                write(network, example, target, bundle / "configs")
        except ImportError as error:
            missing[name] = str(error)
        except Exception as error:  # compilers of torch and ONNX raise any exception; the zip then lacks the file
            target.unlink(missing_ok=True)
            missing[name] = f"the network has no {kind} form here: {first_line(error)}"
    return missing


def _torchscript(network: nn.Module, example: Tensor, target: Path, configs: Path) -> None:
    """Write a trace with the configs inside, as MONAI's ckpt_export does, without the paths of this machine."""
    import torch
    from monai.data import save_net_with_metadata
    from monai.networks.utils import convert_to_torchscript

    traced = torch.jit.script(_fixed_size(convert_to_torchscript(network, inputs=[example], use_trace=True), example))
    metadata = json.loads((configs / "metadata.json").read_text("utf-8"))
    inference = (configs / "inference.json").read_bytes()
    save_net_with_metadata(
        traced,
        str(target),
        include_config_vals=False,
        meta_values=metadata,
        more_extra_files={"inference.json": inference},
    )
    partial = target.with_suffix(".partial")
    with zipfile.ZipFile(target) as saved, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as kept:
        for entry in saved.infolist():
            if not entry.filename.endswith(OF_THIS_MACHINE):
                kept.writestr(zipfile.ZipInfo(entry.filename), saved.read(entry))
    partial.replace(target)
    loaded = torch.jit.load(str(target), map_location="cpu")
    other = torch.rand_like(example[:1])
    assert_close(loaded(other), network(other))


def _fixed_size(traced: nn.Module, example: Tensor) -> nn.Module:
    """A module that refuses other image sizes: a trace would silently give wrong numbers for them."""
    from torch import nn

    class FixedSize(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = traced
            self.size = list(example.shape[2:])

        def forward(self, x: Tensor) -> Tensor:
            if list(x.shape[2:]) != self.size:
                raise InputError(f"exported for images of size {self.size}, got {list(x.shape[2:])}")
            return self.network(x)

    return FixedSize()


def _onnx(network: nn.Module, example: Tensor, target: Path, configs: Path) -> None:
    import torch

    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise MissingPackageError(f"{error.name} is not installed; pip install 'medmixers[onnx]'") from error
    program: Any = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        input_names=["image"],
        output_names=["pred"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    model = program.model_proto
    for holder in (model.graph, *model.graph.node, *model.graph.value_info, *model.functions):
        del holder.metadata_props[:]  # source positions of the nodes, with paths of this machine
    for function in model.functions:
        for node in function.node:
            del node.metadata_props[:]
    target.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(target))
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    other = torch.rand(3, *example.shape[1:])
    assert_close(torch.from_numpy(session.run(None, {"image": other.numpy()})[0]), network(other))


if __name__ == "__main__":
    print(json.dumps(_export(Path(sys.argv[1]))))
