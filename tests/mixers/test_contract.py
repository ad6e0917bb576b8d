"""What every token mixer must do, over the registry, in 2D and 3D, on odd and non-square sizes."""

from contextlib import nullcontext

import pytest
import torch
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from medmixers import list_mixers
from medmixers.mixers import TOKEN_MIXERS
from medmixers.mixers.build import create_mixer, mixer_option_names

SIZES = {2: (9, 13), 3: (5, 9, 6)}
DIM = 32

every_mixer = pytest.mark.parametrize("name", list_mixers())
both_dims = pytest.mark.parametrize("spatial_dims", [2, 3])


def build(name, spatial_dims, size):
    torch.manual_seed(0)
    options = {}
    if TOKEN_MIXERS[name].size_bound:
        options["feature_size"] = size
    return create_mixer(name, DIM, spatial_dims=spatial_dims, **options)


def feature_map(size, batch=2):
    return torch.randn(batch, DIM, *size, generator=torch.Generator().manual_seed(1))


@every_mixer
@both_dims
def test_keeps_shape_and_gives_finite_gradients(name, spatial_dims):
    mixer = build(name, spatial_dims, SIZES[spatial_dims])
    x = feature_map(SIZES[spatial_dims]).requires_grad_()
    y = mixer(x)
    assert y.shape == x.shape
    (y * torch.randn_like(y)).sum().backward()
    for owner, tensor in [("input", x), *mixer.named_parameters()]:
        assert tensor.grad is not None, owner
        assert torch.isfinite(tensor.grad).all(), owner
        assert tensor.grad.abs().sum() > 0, owner


@every_mixer
@both_dims
def test_eval_is_deterministic_and_bfloat16_close(name, spatial_dims):
    mixer = build(name, spatial_dims, SIZES[spatial_dims]).eval()
    x = feature_map(SIZES[spatial_dims])
    with torch.no_grad():
        first = mixer(x)
        assert torch.equal(first, mixer(x))
        half = mixer.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    # eight bits of mantissa, a few roundings in a row
    torch.testing.assert_close(half.float(), first, rtol=0.05, atol=0.03 * first.abs().max().item())


@every_mixer
@both_dims
def test_goes_by_its_inputs_device_and_by_torch_func(name, spatial_dims):
    mixer = build(name, spatial_dims, SIZES[spatial_dims])
    x = feature_map(SIZES[spatial_dims]).requires_grad_()
    y = mixer(x)
    (expected,) = torch.autograd.grad(y.square().sum(), x)
    with torch.device("meta"):
        assert torch.equal(mixer(x), y)
    transformed = torch.func.grad(lambda t: mixer(t).square().sum())(x.detach())
    torch.testing.assert_close(transformed, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@every_mixer
@both_dims
def test_the_meta_device_gives_the_shape(name, spatial_dims):
    """nnU-Net's planner estimates memory there, and a bundle's check compares shapes there."""
    with torch.device("meta"):
        mixer, x = build(name, spatial_dims, SIZES[spatial_dims]), torch.empty(2, DIM, *SIZES[spatial_dims])
        assert mixer(x).shape == x.shape


@every_mixer
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3), (1, 1, 1), (3, 1, 2)])
def test_maps_smaller_than_the_kernel(name, size):
    """Down to one position, as in the last stage of a small patch. In float32 and with a loss to train on."""
    mixer = build(name, len(size), size)
    x = feature_map(size).requires_grad_()
    y = mixer(x)
    assert y.shape == x.shape
    assert torch.isfinite(y).all()
    y.square().sum().backward()
    for owner, tensor in [("input", x), *mixer.named_parameters()]:
        assert tensor.grad is not None, owner
        assert torch.isfinite(tensor.grad).all(), owner


def own_ways(name, spatial_dims):
    """A mixer in float64 that computes by this package's functions where it has them, and its parameters."""
    names, size = mixer_option_names(name), (6, 5, 7)[:spatial_dims]
    options = {"kernel_size": 7, "full_attention_tokens": 0, "feature_size": size}
    if name == "global_attention":
        options = {}
    torch.manual_seed(0)
    options = {key: value for key, value in options.items() if key in names}
    mixer = create_mixer(name, 16, spatial_dims=spatial_dims, **options).double()
    x = torch.randn(2, 16, *size, dtype=torch.float64, requires_grad=True)
    parameters = dict(mixer.named_parameters())
    return lambda x, *p: functional_call(mixer, dict(zip(parameters, p, strict=True)), x), (x, *parameters.values())


@every_mixer
@both_dims
def test_gradients_of_gradients(name, spatial_dims):
    function, inputs = own_ways(name, spatial_dims)
    torchs_own = name == "global_attention"  # torch's fused kernel refuses
    with sdpa_kernel(SDPBackend.MATH) if torchs_own else nullcontext():
        assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@every_mixer
@both_dims
def test_gradients_backward_and_forward(name, spatial_dims):
    function, inputs = own_ways(name, spatial_dims)
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True, fast_mode=True)


@every_mixer
@both_dims
def test_an_empty_batch(name, spatial_dims):
    function, (x, *parameters) = own_ways(name, spatial_dims)
    y = function(x[:0], *parameters)
    assert y.shape == (0, *x.shape[1:])
    y.sum().backward()
    assert not any(p.grad is not None and p.grad.any() for p in parameters)
    with torch.no_grad():
        assert function(x[:0], *parameters).shape == y.shape


@every_mixer
@both_dims
def test_trains_under_autocast(name, spatial_dims):
    mixer = build(name, spatial_dims, SIZES[spatial_dims])
    x = feature_map(SIZES[spatial_dims]).requires_grad_()
    probe = torch.randn_like(x)
    results = []
    for half in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            y = mixer(x)
        gradients = torch.autograd.grad((y.float() * probe).sum(), [x, *mixer.parameters()])
        results.append([y.float(), *gradients])
    names = ["output", "input", *(name for name, _ in mixer.named_parameters())]
    for owner, found, expected in zip(names, *results, strict=True):
        assert (found - expected).norm() <= 0.1 * expected.norm(), owner


@every_mixer
@both_dims
def test_traces_to_a_file_that_loads(name, spatial_dims, tmp_path):
    mixer = build(name, spatial_dims, SIZES[spatial_dims]).eval()
    x = feature_map(SIZES[spatial_dims])
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(mixer, x), tmp_path / "mixer.ts")
        loaded = torch.jit.load(tmp_path / "mixer.ts")
        sizes = [SIZES[spatial_dims]]
        if not TOKEN_MIXERS[name].size_bound:  # a trace that fixed a branch or a loop would be wrong there
            sizes += {2: [(3, 4), (22, 23)], 3: [(3, 2, 4), (7, 9, 8)]}[spatial_dims]
        for size in sizes:
            x = feature_map(size)
            torch.testing.assert_close(loaded(x), mixer(x), rtol=1e-5, atol=1e-5)


@every_mixer
@both_dims
def test_scripts_to_the_plain_operators(name, spatial_dims):
    mixer = build(name, spatial_dims, SIZES[spatial_dims])
    scripted = torch.jit.script(mixer)
    x = feature_map(SIZES[spatial_dims])
    results = []
    for function in (mixer, scripted):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        y.square().sum().backward()
        results.append((y, leaf.grad))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * max(1, expected.abs().max().item()))


@every_mixer
@both_dims
def test_batch_entries_do_not_mix(name, spatial_dims):
    mixer = build(name, spatial_dims, SIZES[spatial_dims]).eval()
    x = feature_map(SIZES[spatial_dims], batch=3)
    with torch.no_grad():
        torch.testing.assert_close(mixer(x)[1:2], mixer(x[1:2]), rtol=1e-5, atol=1e-6)


UNROLLED = ("dilated_attention", "local_attention", "state_space")  # a graph with all steps of a loop: a minute in 3D
# Each mixer becomes a graph once, in 3D if that is quick. The other dimension is slow.
one_graph_each = pytest.mark.parametrize(
    ("name", "spatial_dims"),
    [
        pytest.param(name, dims, marks=[pytest.mark.slow] * ((dims == 3) == (name in UNROLLED)))
        for name in list_mixers()
        for dims in (2, 3)
    ],
)


@one_graph_each
def test_compiles_as_one_graph(name, spatial_dims):
    mixer = build(name, spatial_dims, SIZES[spatial_dims]).eval()
    x = feature_map(SIZES[spatial_dims])
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), mixer(x), rtol=1e-5, atol=1e-5)


@one_graph_each
def test_exports(name, spatial_dims):
    mixer = build(name, spatial_dims, SIZES[spatial_dims]).eval()
    x = feature_map(SIZES[spatial_dims])
    with torch.no_grad():
        exported = torch.export.export(mixer, (x,)).module()
        torch.testing.assert_close(exported(x), mixer(x), rtol=1e-5, atol=1e-5)


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor._base is None:
                self.elements = max(self.elements, tensor.numel())
        return out


def largest_tensor(name, spatial_dims, size):
    mixer = build(name, spatial_dims, size)
    x = feature_map(size, batch=1).requires_grad_()
    with LargestTensor() as largest:
        mixer(x).sum().backward()
    return largest.elements


@pytest.mark.parametrize("name", [name for name, row in TOKEN_MIXERS.items() if not row.pairwise])
@both_dims
def test_memory_grows_with_tokens_not_tokens_squared(name, spatial_dims):
    edge = {2: 24, 3: 10}[spatial_dims]
    small = largest_tensor(name, spatial_dims, (edge,) * spatial_dims)
    large = largest_tensor(name, spatial_dims, (2 * edge,) * spatial_dims)
    assert large <= 1.1 * 2**spatial_dims * small


@pytest.mark.parametrize("name", [name for name, row in TOKEN_MIXERS.items() if row.size_bound or row.takes_position])
def test_size_bound_mixer_names_both_sizes(name):
    mixer = create_mixer(name, DIM, spatial_dims=2, feature_size=(6, 7))
    with pytest.raises(ValueError, match=r"\(6, 7\).*\(7, 6\)"):
        mixer(feature_map((7, 6)))


@pytest.mark.parametrize("name", [name for name, row in TOKEN_MIXERS.items() if row.has_kernel])
@pytest.mark.parametrize("kernel_size", [4, 0, -3, 3.0])
def test_kernel_must_be_odd(name, kernel_size):
    with pytest.raises(ValueError, match=f"odd integer >= 1, got {kernel_size}"):
        create_mixer(name, DIM, spatial_dims=2, kernel_size=kernel_size)


@every_mixer
def test_dimension_must_be_2_or_3(name):
    options = {"feature_size": (4,)} if TOKEN_MIXERS[name].size_bound else {}
    with pytest.raises(ValueError, match="spatial_dims must be 2 or 3, got 1"):
        create_mixer(name, DIM, spatial_dims=1, **options)


@pytest.mark.parametrize("name", [name for name in list_mixers() if "head_dim" in mixer_option_names(name)])
def test_heads_must_divide_the_channels(name):
    with pytest.raises(ValueError, match="dim=40, head_dim=16"):
        create_mixer(name, 40, spatial_dims=2)


def test_misspelled_name_and_option_list_the_valid_ones():
    with pytest.raises(ValueError, match=r"unknown token mixer 'poling'; valid: .*pooling"):
        create_mixer("poling", DIM, spatial_dims=2)
    with pytest.raises(ValueError, match="has no option 'kernal_size'; valid: kernel_size, activation, bias"):
        create_mixer("sep_conv", DIM, spatial_dims=2, kernal_size=3)
