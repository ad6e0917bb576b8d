"""OpenVINO gives torch's logits, of the weights that the network has now, or says that it cannot."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import deepcopy

import pytest
import torch
from torch import nn

from medmixers.bundle_runtime import openvino_inference
from medmixers.bundle_runtime.openvino_inference import openvino_compile
from medmixers.errors import InputError, MissingPackageError
from medmixers.factory import create_network
from medmixers.mixers.build import create_mixer

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")


class TwoOutputs(nn.Module):
    def forward(self, x):
        return [x, x]


def small_network():
    torch.manual_seed(0)
    return create_network(
        "metaformer_segformer_s12",
        spatial_dims=2,
        in_channels=1,
        out_channels=2,
        mixer="grouped_conv",
        depths=(1, 1),
        dims=(8, 16),
        layer_scale_init=1.0,
    ).eval()


INTERRUPTED = """
import gc, signal, torch
from medmixers.bundle_runtime.openvino_inference import openvino_compile
networks = [openvino_compile(torch.nn.Conv2d(1, 1, 3).eval()) for _ in range(2)]
with torch.no_grad():
    for network in networks:
        network(torch.ones(1, 1, 8, 8))
del network
while networks:
    del networks[0].forward, networks[0]
    gc.collect()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_signal_after_networks_are_freed_reaches_python():
    """Cores of OpenVINO that are freed leave the thread a freed stack for its signal handlers: Ctrl-C was a SIGSEGV."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr[-500:]


@torch.no_grad()
def test_each_shape_is_compiled_once_with_the_weights_that_are_there(monkeypatch):
    torch.manual_seed(1)
    images = [torch.randn(1, 1, 32, 48), torch.randn(2, 1, 32, 32)]
    plain = small_network()
    network = openvino_compile(deepcopy(plain))
    assert list(network.state_dict()) == list(plain.state_dict())
    compiled = []
    compile_plainly = openvino_inference._compiled
    monkeypatch.setattr(openvino_inference, "_compiled", lambda *args: compiled.append(1) or compile_plainly(*args))
    for _ in range(2):
        for image in images:
            torch.testing.assert_close(network(image), plain(image), rtol=1e-4, atol=1e-5)
    assert len(compiled) == 2

    for parameter in plain.parameters():
        parameter.mul_(1.5)
    network.load_state_dict(plain.state_dict())
    torch.testing.assert_close(network(images[0]), plain(images[0]), rtol=1e-4, atol=1e-4)
    assert len(compiled) == 3
    copied = deepcopy(network)  # as an ensemble makes them: its own weights
    for parameter in copied.parameters():
        parameter.zero_()
    assert copied(images[0]).abs().max() == 0
    assert network(images[0]).abs().max() > 0


def test_torch_computes_where_gradients_are_on():
    network = openvino_compile(small_network())
    logits = network(torch.randn(1, 1, 32, 32))
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_weights_that_change_without_a_trace_are_seen():
    network = openvino_compile(small_network())
    image = torch.randn(1, 1, 32, 32)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1, fused=True)  # leaves the version of its tensors
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(network(image), network.forward.plain()(image), rtol=1e-3, atol=1e-3)
        network(image).square().mean().backward()
        optimizer.step()


@torch.no_grad()
def test_hooks_threads_and_copies(monkeypatch):
    """With plain torch in place of OpenVINO: what is called how often, and by whom."""
    monkeypatch.setattr(openvino_inference, "_compiled", lambda plain, image, precision: plain)
    network, plain = openvino_compile(small_network()), small_network()
    images = torch.randn(8, 1, 1, 32, 32)
    with ThreadPoolExecutor(4) as pool:
        for found, image in zip(pool.map(torch.no_grad()(network), images), images, strict=True):
            torch.testing.assert_close(found, plain(image))
    network.register_forward_hook(lambda module, args, out: 2 * out)
    torch.testing.assert_close(network(images[0]), 2 * plain(images[0]))
    pickled = pickle.loads(pickle.dumps(openvino_compile(small_network())))
    torch.testing.assert_close(pickled(images[0]), plain(images[0]))
    calls = []
    inside = openvino_compile(small_network())
    inside.decoder.register_forward_hook(lambda module, args, out: calls.append(1))
    inside(images[0])
    assert calls == [1]
    assert not inside.forward.compiled
    with torch.autocast("cpu", torch.bfloat16):
        openvino_compile(small_network())(images[0])
    double = openvino_compile(small_network().double())
    with pytest.raises(InputError, match="weights of another type"):
        double(images[0])
    with pytest.raises(InputError, match="this one gives a list"):
        openvino_compile(TwoOutputs().eval())(images[0])


@torch.no_grad()
def test_bfloat16_is_near_and_other_logits_are_an_error(monkeypatch):
    image = torch.randn(1, 1, 32, 32)
    network = openvino_compile(small_network(), precision="bf16")
    expected = network.forward.plain()(image)
    assert 0 < (network(image) - expected).norm() < 0.05 * expected.norm()

    network = openvino_compile(small_network())
    monkeypatch.setattr(openvino_inference, "_compiled", lambda plain, x, precision: lambda image: 1.01 * plain(image))
    with pytest.raises(InputError, match=r"other logits than torch \(by 1.0e-02 of the largest; allowed: 0.001\)"):
        network(image)


@pytest.mark.slow
@torch.no_grad()
def test_attention_with_as_many_tokens_as_heads_is_never_wrong():
    """OpenVINO 2026.4 confuses both axes, and the check of each compilation says so."""
    torch.manual_seed(0)
    mixer = create_mixer("global_attention", 64, spatial_dims=2).eval()
    x = torch.randn(1, 64, 2, 2)
    expected, network = mixer(x), openvino_compile(mixer)
    with suppress(InputError):  # a version that does not raise gives the logits
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_what_openvino_cannot_do_is_one_line(monkeypatch):
    with pytest.raises(InputError, match="unknown precision 'int4' of OpenVINO; valid: f32, bf16"):
        openvino_compile(small_network(), precision="int4")
    spectral = openvino_compile(create_mixer("spectral", 4, spatial_dims=2).eval())
    with pytest.raises(InputError, match="OpenVINO cannot compute this network: "):
        spectral(torch.randn(1, 4, 8, 8))
    monkeypatch.setattr(openvino_inference, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="pip install openvino onnx onnxscript"):
        openvino_compile(small_network())
