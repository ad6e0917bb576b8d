"""Inference by OpenVINO on a CPU, for configs/inference_openvino.json. torch's forward is its reference."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from copy import copy
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from medmixers.errors import InputError, MissingPackageError, first_line

# Precision -> largest difference of its logits to torch's, over the largest logit. One wrong operator changes more.
TOLERANCES = {"f32": 1e-3, "bf16": 1e-1}
PACKAGES = ("openvino", "onnx", "onnxscript")
SHAPES = 4  # each shape has a compiled network of its own, which holds a copy of the weights
Run = Callable[[Tensor], Tensor]


def openvino_compile(network: nn.Module, *, precision: str = "f32") -> nn.Module:
    """Let OpenVINO compute the network's inference on a CPU. Its weights, and their keys, stay as they are.

    Each input shape is compiled once, with the weights that the network then has. Other weights are compiled again.
    After each compilation torch computes the logits of a random image as well, and both must agree. In training mode,
    and where gradients are on, torch computes.

    Args:
        network: (B, C, *spatial) -> one tensor of logits.
        precision: "f32", or "bf16" for processors with AVX-512 BF16 or AMX.

    Returns:
        The same network.

    Raises:
        InputError: another precision. From the forward: OpenVINO cannot compute the network; it is not on a CPU.
        MissingPackageError: openvino, onnx or onnxscript is not installed.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise MissingPackageError(f"inference by OpenVINO needs more packages: pip install {' '.join(missing)}")
    if precision not in TOLERANCES:
        raise InputError(f"unknown precision {precision!r} of OpenVINO; valid: {', '.join(TOLERANCES)}")
    network.forward = OpenVINOForward(network, precision)
    return network


class OpenVINOForward:
    """Forward of one network; stands in the place of the module's own."""

    def __init__(self, network: nn.Module, precision: str) -> None:
        self.network = network
        self.precision = precision
        self.versions: list[tuple[int, int]] = []  # of the weights' tensors, which change with each write
        self.weights: list[Tensor] = []  # copies of those that the compiled networks hold
        self.compiled: OrderedDict[torch.Size, Run] = OrderedDict()

    def __deepcopy__(self, memo: dict[int, Any]) -> OpenVINOForward:
        return OpenVINOForward(memo[id(self.network)], self.precision)

    def plain(self) -> nn.Module:
        """The network with the forward of its class, and with the same weights."""
        network = copy(self.network)
        vars(network).pop("forward")
        return network

    def __call__(self, x: Tensor) -> Tensor:
        if self.network.training or torch.is_grad_enabled() or torch.jit.is_tracing():
            return self.plain()(x)
        if x.device.type != "cpu":
            raise InputError(f"OpenVINO computes on a CPU here, and the image is on {x.device}: add --device cpu")
        self._forget_other_weights()
        x = x.as_subclass(Tensor).float()  # MONAI's MetaTensor
        if x.shape not in self.compiled:
            self._compile(x)
        self.compiled.move_to_end(x.shape)
        return self.compiled[x.shape](x)

    def _forget_other_weights(self) -> None:
        tensors = [*self.network.parameters(), *self.network.buffers()]
        versions = [(tensor.data_ptr(), tensor._version) for tensor in tensors]
        if versions == self.versions:
            return
        self.versions = versions
        if len(tensors) == len(self.weights) and all(map(torch.equal, tensors, self.weights)):
            return  # nnU-Net loads the same weights for each case
        self.compiled.clear()
        self.weights = [tensor.detach().clone() for tensor in tensors]

    def _compile(self, x: Tensor) -> None:
        """Compile for the shape of ``x``, and check the logits of a random image."""
        plain, image = self.plain(), torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        expected: Tensor = plain(image)
        try:
            run = _compiled(plain, image, self.precision)
            found = run(image)
        except Exception as error:  # its converter raises many kinds
            raise InputError(f"OpenVINO cannot compute this network: {first_line(error)}") from error
        difference = (found - expected).abs().max() / expected.abs().max().clamp_min(1e-6)
        if not difference <= TOLERANCES[self.precision]:
            raise InputError(
                f"OpenVINO gives other logits than torch (by {difference:.1e} of the largest; allowed: "
                f"{TOLERANCES[self.precision]:g}): predict without it"
            )
        self.compiled[x.shape] = run
        if len(self.compiled) > SHAPES:
            self.compiled.popitem(last=False)


def _compiled(network: nn.Module, image: Tensor, precision: str) -> Run:
    import openvino

    program = torch.onnx.export(torch.export.export(network, (image,)), (), verbose=False)
    assert program is not None  # torch returns None only when it writes a file
    core = openvino.Core()
    model = core.read_model(program.model_proto.SerializeToString())
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return lambda x: torch.from_numpy(request.infer([x.contiguous().numpy()])[0].copy())
