"""Mixers and networks on a GPU, against float64 on the CPU.

scripts/test.sh -m gpu runs it on a machine with a GPU. With MEDMIXERS_TEST_DEVICE=cpu it runs without one.
"""

import copy
from contextlib import nullcontext

import pytest
import torch
from samples import create_small, defaults, forms
from torch import nn

from gpu_device import DEVICE, on_a_gpu
from medmixers import list_mixers
from medmixers.kernels import depthwise
from medmixers.kernels.depthwise import convolve, depthwise_conv
from medmixers.kernels.plain_depthwise import plain_depthwise_conv
from medmixers.mixers import TOKEN_MIXERS
from medmixers.mixers.build import create_mixer
from medmixers.mixers.local_attention import LocalAttention

pytestmark = on_a_gpu

# Largest difference to float64, over the norm: a few roundings of each precision in a row.
TOLERANCES = {"float32": 1e-4, "tf32": 1e-2, "float16": 2e-2, "bfloat16": 1e-1}
# Networks: norms over maps of a few voxels, and the kinks of ReLU, raise it. What is wrong differs by 1 and more.
NETWORK_TOLERANCES = {"float32": 2e-3, "tf32": 5e-2, "float16": 2e-1, "bfloat16": 5e-1}
every_precision = pytest.mark.parametrize("precision", TOLERANCES)
MIXER_SIZES, NETWORK_SIZES = {2: (9, 13), 3: (5, 9, 6)}, {2: (72, 100), 3: (36, 20, 24)}
CHAOTIC = "unet_patch_embedding_keuth2025"  # norms over one voxel: any rounding changes its gradients wholly
COMPILED = ("metaformer_segformer_s12", "caformer_s18", "token_unet", "token_unet_released_8", "med_next")


@pytest.fixture(autouse=True)
def same_tf32():
    """As before the test. By torch's defaults convolutions may use TF32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def trained(module, x, probe, context):
    """Logits, the input's gradient and all parameters' gradients in one vector, in float64 on the CPU."""
    leaf = x.clone().requires_grad_()
    with context:
        y = module(leaf)
    (y.to(probe.dtype) * probe).sum().backward()
    gradients = [p.grad.detach().double().cpu().flatten() for p in module.parameters() if p.grad is not None]
    found = {"logits": y, "gradient of the input": leaf.grad, "gradients": torch.cat([torch.zeros(1), *gradients])}
    return {name: tensor.detach().double().cpu() for name, tensor in found.items()}


def assert_near(found, expected, tolerance):
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        assert found[name].isfinite().all(), name
        difference = float((found[name] - value).norm()) / max(float(value.norm()), 1e-6)
        assert difference <= tolerance, f"{name} differ by {difference:.1e}, more than {tolerance:.0e}"


def check(module, x, precision, *, tolerances=TOLERANCES, wrap=lambda module: module):
    """A training step on the device in a precision against the same in float64 on the CPU."""
    exact, own = copy.deepcopy(module).double(), copy.deepcopy(module).to(DEVICE)
    with torch.no_grad():
        value = exact(x.double())
    probe = torch.linspace(-1, 1, value.numel(), dtype=torch.float64).view_as(value)
    context = nullcontext()
    if precision in ("float16", "bfloat16"):
        context = torch.autocast(torch.device(DEVICE).type, getattr(torch, precision))
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    expected = trained(exact, x.double(), probe, nullcontext())
    found = trained(wrap(own), x.to(DEVICE), probe.float().to(DEVICE), context)
    assert_near(found, expected, tolerances[precision])


def mixer_and_input(name, dims):
    torch.manual_seed(0)
    size = MIXER_SIZES[dims]
    options = {"feature_size": size} if TOKEN_MIXERS[name].size_bound else {}
    return create_mixer(name, 32, spatial_dims=dims, **options), torch.randn(2, 32, *size)


def network_and_input(name, dims, **options):
    torch.manual_seed(0)
    size = NETWORK_SIZES[dims]
    # LayerScale's published start value of 1e-5 would hide the mixers.
    options |= {"layer_scale_init": 1.0} if defaults(name).get("layer_scale_init") else {}
    options |= {"drop_path_rate": 0.0} if "drop_path_rate" in defaults(name) else {}
    network = create_small(name, size, **options)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network, torch.randn(2, 2, *size)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", list_mixers())
@every_precision
def test_a_mixer(precision, name, dims):
    check(*mixer_and_input(name, dims), precision)


@pytest.mark.parametrize(("name", "dims"), forms())
@every_precision
def test_a_network(precision, name, dims):
    if name == CHAOTIC and precision != "float32":
        pytest.skip("the network itself is not stable in this precision")
    if DEVICE == "cpu" and (precision, dims) == ("bfloat16", 3):
        pytest.skip("torch's bfloat16 gradients of 3D convolutions are wrong on a CPU: see the troubleshooting guide")
    check(*network_and_input(name, dims), precision, tolerances=NETWORK_TOLERANCES)


@pytest.mark.parametrize(("name", "dims"), forms())
def test_activation_checkpointing(name, dims):
    check(*network_and_input(name, dims, activation_checkpointing=True), "float32", tolerances=NETWORK_TOLERANCES)


@pytest.mark.parametrize("size", [(9, 13), (56, 56), (5, 2, 3), (33, 20, 18)])
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_depthwise_convolution_by_triton(dtype, kernel_size, size):
    if DEVICE == "cpu":
        pytest.skip("Triton needs a GPU; tests/kernels/test_depthwise_triton.py interprets it")
    torch.manual_seed(0)
    weight, bias = torch.randn(8, 1, *([kernel_size] * len(size)), dtype=dtype), torch.randn(8, dtype=dtype)
    x, probe = torch.randn(2, 2, 8, *size, dtype=dtype)
    results = []
    for by, device, kind in ((depthwise.TRITON, DEVICE, dtype), (depthwise.TORCH, "cpu", torch.float64)):
        leaves = [tensor.to(device, kind).requires_grad_() for tensor in (x, weight, bias)]
        y = depthwise.convolve(*leaves, by)
        gradients = torch.autograd.grad(y, leaves, probe.to(device, kind))
        results.append([tensor.detach().cpu().double() for tensor in (y, *gradients)])
    for found, value in zip(*results, strict=True):
        assert (found - value).norm() <= 8 * torch.finfo(dtype).eps * value.norm() + 1e-6


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", list_mixers())
def test_a_compiled_mixer(name, precision):
    torch.compiler.reset()
    check(*mixer_and_input(name, 2), precision, wrap=torch.compile)


@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_network(name):
    torch.compiler.reset()
    check(*network_and_input(name, 3), "float32", tolerances=NETWORK_TOLERANCES, wrap=torch.compile)


def test_a_compiled_network_takes_the_operators_of_eager_mode():
    torch.compiler.reset()
    conv, x = nn.Conv3d(8, 8, 3, padding=1, groups=8).to(DEVICE), torch.randn(2, 8, 9, 8, 7, device=DEVICE)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(lambda x: depthwise_conv(x, conv.weight, conv.bias), fullgraph=True, backend=backend)
    compiled(x)
    assert convolve in [node.target for graph in graphs for node in graph.graph.nodes]
    compiled = torch.compile(lambda x: depthwise_conv(x, conv.weight, conv.bias), fullgraph=True)
    torch.testing.assert_close(compiled(x), plain_depthwise_conv(x, conv.weight, conv.bias), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(9, 13), (56, 56), (5, 9, 6), (20, 18, 17)])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_attention_by_flex(precision, size):
    """Values and gradients, beside those of tiles in float64."""
    if DEVICE == "cpu":
        pytest.skip("FlexAttention has no backward pass on a CPU; tests/mixers/test_local_attention.py has the forward")
    torch.manual_seed(0)
    options = {"spatial_dims": len(size), "kernel_size": 5, "head_dim": 16, "full_attention_tokens": 0}
    tiles, flex = (LocalAttention(32, backend=backend, **options) for backend in ("tiles", "flex"))
    flex.load_state_dict(tiles.state_dict())
    check(tiles, torch.randn(2, 32, *size), precision, wrap=lambda _: flex.to(DEVICE))


def test_attention_by_flex_takes_many_sizes():
    """torch's limit is 8: then it goes on with tokens squared memory."""
    if DEVICE == "cpu":
        pytest.skip("FlexAttention is not compiled on a CPU")
    torch.compiler.reset()
    flex = LocalAttention(32, spatial_dims=2, kernel_size=3, backend="flex", full_attention_tokens=0).to(DEVICE)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for edge in range(20, 40, 2):
            flex(torch.randn(1, 32, edge, edge, device=DEVICE)).sum().backward()
