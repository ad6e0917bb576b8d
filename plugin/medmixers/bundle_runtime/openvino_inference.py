"""Inference by OpenVINO on a CPU, for configs/inference_openvino.json. torch's forward is its reference."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from copy import copy
from functools import cache
from importlib.util import find_spec
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from medmixers.errors import InputError, MissingPackageError, first_line

# Precision -> largest difference of its logits to torch's, over the largest logit. One wrong operator changes more.
TOLERANCES = {"f32": 1e-3, "bf16": 1e-1}
PACKAGES = ("openvino", "onnx", "onnxscript")
SHAPES = 4  # each shape has a compiled network of its own, which holds a copy of the weights
SAMPLES = 8  # numbers of each tensor of weights that are compared at each call; all are compared when one differs
Run = Callable[[Tensor], Tensor]
Mark = tuple[int, int | None, list[float]]


def openvino_compile(network: nn.Module, *, precision: str = "f32") -> nn.Module:
    """Let OpenVINO compute the network's inference on a CPU. Its weights, and their keys, stay as they are.

    Each input shape is compiled once, with the weights that the network then has. Other weights are compiled again.
    After each compilation torch computes the logits of a random image as well, and both must agree.

    torch computes in training mode, where gradients are on, on another device than a CPU, and while a module inside has
    hooks, which a compiled network would not call. What is not a tensor, such as a switch, must not change afterwards;
    nor must single weights through NumPy or ``.data``, which leave no trace.

    Args:
        network: (B, C, *spatial) -> one tensor of logits, float32.
        precision: "f32", or "bf16" for processors with AVX-512 BF16 or AMX.

    Returns:
        The same network.

    Raises:
        InputError: another precision. From the forward: OpenVINO cannot compute the network.
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
        self.weights: list[Tensor] = []  # copies of those that the compiled networks hold
        self.marks: list[Mark] = []  # of the same weights
        self.compiled: OrderedDict[torch.Size, Run] = OrderedDict()
        self.lock = Lock()  # an inference request serves one call at a time

    def __deepcopy__(self, memo: dict[int, Any]) -> OpenVINOForward:
        return OpenVINOForward(memo[id(self.network)], self.precision)

    def __reduce__(self) -> tuple[Any, ...]:
        return OpenVINOForward, (self.network, self.precision)

    def plain(self) -> nn.Module:
        """The network with the forward of its class and the same weights, without hooks: those of the network run."""
        network = copy(self.network)
        vars(network).pop("forward")
        for name, value in vars(network).items():
            if name.endswith("_hooks"):
                setattr(network, name, OrderedDict() if isinstance(value, dict) else value)
        return network

    def __call__(self, x: Tensor) -> Tensor:
        if self._is_left_to_torch(x):
            if self.network.training or torch.is_grad_enabled():
                self.marks = []  # a training may follow, and fused optimizers leave no version on a tensor
            return self.plain()(x)
        x = x.as_subclass(Tensor)  # of MONAI's MetaTensor
        with self.lock:
            self._forget_other_weights()
            if x.shape not in self.compiled:
                self._compile(x)
            self.compiled.move_to_end(x.shape)
            return self.compiled[x.shape](x)

    def _is_left_to_torch(self, x: Tensor) -> bool:
        if self.network.training or torch.is_grad_enabled() or torch.jit.is_tracing():
            return True
        if x.device.type != "cpu" or x.dtype != torch.float32:
            return True
        inside = (module for module in self.network.modules() if module is not self.network)
        return any(module._forward_hooks or module._forward_pre_hooks for module in inside)

    def _forget_other_weights(self) -> None:
        tensors = [*self.network.parameters(), *self.network.buffers()]
        marks = [mark(tensor) for tensor in tensors]
        if marks == self.marks:
            return
        self.marks = marks
        if len(tensors) != len(self.weights) or not all(map(torch.equal, tensors, self.weights)):
            self.compiled.clear()
            self.weights = [tensor.detach().clone() for tensor in tensors]

    @torch.autocast("cpu", enabled=False)
    def _compile(self, x: Tensor) -> None:
        """Compile for the shape of ``x``, and check the logits of a random image."""
        plain, image = self.plain(), torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        if any(tensor.is_floating_point() and tensor.dtype != torch.float32 for tensor in self.weights):
            raise InputError("OpenVINO computes networks in float32; this one has weights of another type")
        expected: Tensor = plain(image)
        if not isinstance(expected, Tensor):
            raise InputError(f"OpenVINO computes networks with one output; this one gives a {type(expected).__name__}")
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


def mark(tensor: Tensor) -> Mark:
    """What changes with a tensor's values: its place, its version, and some of its numbers, which NumPy may write."""
    version = None if tensor.is_inference() else tensor._version
    numbers = tensor.detach().reshape(-1) if tensor.is_contiguous() else tensor.detach()[:1].reshape(-1)
    return tensor.data_ptr(), version, numbers[:: len(numbers) // SAMPLES + 1].tolist()


@cache
def _core() -> Any:
    """OpenVINO's core of this process, which is never freed.

    The first compilation of a core gives the thread a stack for signal handlers, and its end frees it. Where two cores
    have ended, the thread keeps a freed stack, and the next signal, such as Ctrl-C, is a SIGSEGV.
    """
    import openvino

    return openvino.Core()


def _compiled(network: nn.Module, image: Tensor, precision: str) -> Run:
    program = torch.onnx.export(torch.export.export(network, (image,)), (), verbose=False)
    assert program is not None  # torch returns None only when it writes a file
    core = _core()
    model = core.read_model(program.model_proto.SerializeToString())
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return lambda x: torch.from_numpy(request.infer([x.contiguous().numpy()])[0].copy())
