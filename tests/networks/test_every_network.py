"""What every network of the table must do, on a small instance of each family: sizes, training, layouts, exports."""

import copy
import io
import logging
from concurrent.futures import ThreadPoolExecutor

import exports
import pytest
import torch
from exports import ANY_SIZE, ONE_SIZE, SIZES, WAYS, exported, how_it_exports, measure_exports
from samples import create_small, defaults, families, forms, small_options

from medmixers import create_network
from medmixers.layers.checkpointing import checkpoint_blocks
from medmixers.mixers import TOKEN_MIXERS
from medmixers.results import network_facts
from medmixers.variants import NETWORKS

SIZE = {2: (72, 100), 3: (40, 36, 44)}
TRAINED_SIZE = {2: (72, 100), 3: (36, 20, 24)}
OTHER_SIZES = {2: [(53, 35), (64, 64), (9, 70)], 3: [(37, 50, 35), (33, 8, 64)]}
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
FORMS = forms()
# Each way to mix, norm, scale and decode once. The other names compile and script in the slow tests.
COMPILED = {
    "caformer_s18", "metaformer_segformer_s12", "med_next", "token_unet",
    "token_unet_released_8_mlp_mixer",
}  # fmt: skip
every_form = pytest.mark.parametrize(("name", "dims"), FORMS)


def quick_or_slow(name, *more):
    return pytest.param(name, *more, marks=() if name in COMPILED else pytest.mark.slow)


def build(name, dims, *, size=None, **options):
    torch.manual_seed(0)
    return create_small(name, size or SIZE[dims], **options)


def images(*size, batch=2):
    return torch.randn(batch, 2, *size, generator=torch.Generator().manual_seed(1))


def drop_path(name):
    return {"drop_path_rate": 0.3} if "drop_path_rate" in defaults(name) else {}


def is_bound(name):
    return "one image size" in NETWORKS[name].summary


def assert_near(found, expected, tolerance):
    """Relative to the norm of all logits."""
    assert found.shape == expected.shape
    assert torch.isfinite(found).all()
    assert (found - expected).norm() <= tolerance * expected.norm()


def test_every_name_has_its_family():
    covered = [name for names in families().values() for name in names]
    loaded = [name for name in NETWORKS if name.startswith("rad_dino")]  # tested over a small ViT in test_rad_dino.py
    assert sorted([*covered, *loaded]) == sorted(NETWORKS)
    for names in families().values():
        assert len({repr(small_options(name)) for name in names}) == 1, names


@pytest.mark.parametrize("name", [names[0] for names in families().values()])
def test_dimensions_and_channels_are_integers_by_type(name):
    given = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
    for value in ("3", 2.0, True, 4, None):
        with pytest.raises(ValueError, match=f"spatial_dims must be 2 or 3, got {value!r}"):
            create_network(name, **{**given, "spatial_dims": value})
    for key in ("in_channels", "out_channels"):
        for value in ("2", 2.0, True, 0, -1):
            with pytest.raises(ValueError, match=f"{key} must be an integer >= 1, got {value!r}"):
                create_network(name, **{**given, key: value})


@every_form
@torch.no_grad()
def test_any_size_or_an_error_that_names_both(name, dims):
    network, sizes = build(name, dims).eval(), [SIZE[dims], *OTHER_SIZES[dims]]
    if is_bound(name):
        with pytest.raises(ValueError, match=r"built for feature size \(.*\), got \(.*\)"):
            network(images(*sizes[-1]))
        sizes = sizes[:1]
    for size in sizes:
        logits = network(images(*size))
        assert logits.shape == ((2, 3, *size) if NETWORKS[name].task == "segmentation" else (2, 3))
        assert torch.isfinite(logits).all()


def training_step(network, x):
    """Logits, gradients and buffers after one step, and the next random number."""
    torch.manual_seed(3)
    logits = network.train()(x)
    (logits.float() * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    missing = [key for key, parameter in network.named_parameters() if parameter.grad is None]
    assert not missing
    return [logits.detach(), *(p.grad for p in network.parameters()), *network.buffers(), torch.rand(3)]


@every_form
def test_training_step_and_the_same_with_activation_checkpointing(name, dims):
    size = TRAINED_SIZE[dims]
    x = images(*size)
    plain, saving = (
        build(name, dims, size=size, activation_checkpointing=on, **drop_path(name)) for on in (False, True)
    )
    copied = copy.deepcopy(saving)
    expected = training_step(plain, x)
    assert all(torch.isfinite(value).all() for value in expected)
    for network in (saving, copied):
        assert list(network.state_dict()) == list(plain.state_dict())
        for found, value in zip(training_step(network, x), expected, strict=True):
            torch.testing.assert_close(found, value)
        with torch.no_grad():
            torch.testing.assert_close(network.eval()(x), plain.eval()(x))


def saved_bytes(network, x):
    """Of the tensors that one training forward keeps for the backward pass, parameters not counted."""
    kept = {}
    own = {tensor.untyped_storage().data_ptr() for tensor in [*network.parameters(), *network.buffers()]}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = tensor, storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.train()(x)
    return sum(size for _, size in kept.values())


@pytest.mark.parametrize("name", [name for name, dims in FORMS if dims == 2])
def test_activation_checkpointing_keeps_less(name):
    x = images(*SIZE[2])
    plain, saving = (saved_bytes(build(name, 2, activation_checkpointing=on), x) for on in (False, True))
    assert saving < 0.8 * plain


def test_activation_checkpointing_compiles_as_one_graph():
    x = images(*SIZE[2])
    network = build("convformer_s18", 2, activation_checkpointing=True, drop_path_rate=0.3)
    expected = training_step(copy.deepcopy(network), x)
    torch._dynamo.reset()
    found = training_step(torch.compile(network, fullgraph=True, backend="aot_eager"), x)
    for value, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-3, atol=1e-5)


def test_activation_checkpointing_without_blocks_raises():
    with pytest.raises(ValueError, match="Linear has no blocks to checkpoint: Conv2d"):
        checkpoint_blocks(torch.nn.Linear(2, 2), [torch.nn.Conv2d])
    with pytest.raises(ValueError, match=r"no option 'activation_checkpoint'"):
        create_network("token_unet", spatial_dims=2, in_channels=1, out_channels=2, activation_checkpoint=True)


@every_form
@torch.no_grad()
def test_bfloat16_autocast_is_near_float32(name, dims):
    network, x = build(name, dims).eval(), images(*SIZE[dims])
    with torch.autocast("cpu", torch.bfloat16):
        half = network(x)
    assert_near(half.float(), network(x), 0.2)  # 0.15 in UNet@PatchEmb, the deepest stack of instance norms


@every_form
@torch.no_grad()
def test_channels_last_gives_the_same(name, dims):
    network, x = build(name, dims).eval(), images(*SIZE[dims])
    expected = network(x)
    assert_near(network(x.to(memory_format=CHANNELS_LAST[dims])), expected, 1e-4)
    assert_near(network.to(memory_format=CHANNELS_LAST[dims])(x), expected, 1e-4)


@pytest.mark.parametrize("mixer", [name for name, row in TOKEN_MIXERS.items() if row.pairwise])
@torch.no_grad()
def test_mixers_of_all_positions_compile_behind_a_channels_last_group_norm(mixer):
    """Where torch.compile takes the map for contiguous, and a view of it would fail."""
    options = {"mixer": mixer, "norm": "group_norm", "downsample_norm": "layer_norm", "layer_scale_init": 1.0}
    options |= {"depths": (1, 1), "dims": (32, 32)}  # the second block stands behind a downsampling
    network = create_small("metaformer_s12", SIZES[2][0], **options).eval()
    assert how_it_exports(network, ways=["torch.compile"])["torch.compile"] in (ANY_SIZE, ONE_SIZE)


@pytest.mark.parametrize("name", [quick_or_slow(names[0]) for names in families().values()])
def test_compiles_as_one_graph_and_traces(name):
    network = create_small(name, SIZES[2][0]).eval()
    expected = dict.fromkeys(("torch.compile", "TorchScript"), ONE_SIZE if is_bound(name) else ANY_SIZE)
    if name.startswith("swin_unetr"):
        expected["TorchScript"] = ONE_SIZE  # MONAI's windows are those of the traced size
    assert how_it_exports(network, ways=expected) == expected


@pytest.mark.parametrize(("name", "dims"), [quick_or_slow(*form) for form in FORMS])
@torch.no_grad()
def test_torch_jit_script_takes_any_size(name, dims):
    """Scripted as MONAI's model zoo does it, saved and loaded: the plain forward, with its checks."""
    network, buffer = build(name, dims).eval(), io.BytesIO()
    if name.startswith("swin_unetr"):
        pytest.skip("MONAI's SwinUNETR cannot be scripted")
    torch.jit.save(torch.jit.script(network), buffer)
    buffer.seek(0)
    scripted = torch.jit.load(buffer)
    for size in (SIZE[dims], *(() if is_bound(name) else OTHER_SIZES[dims])):
        assert_near(scripted(images(*size)), network(images(*size)), 1e-4)
    if "baselines" not in NETWORKS[name].target:
        with pytest.raises(torch.jit.Error, match="spatial dimensions, 2 channel"):
            scripted(torch.randn(1, 3, *SIZE[dims]))


@pytest.mark.parametrize(
    ("name", "example", "options"),
    [  # an example that the strides divide, and one that is padded on each axis: the program must take both kinds
        ("metaformer_segformer_s12", (40, 36), {"depths": (1, 1), "dims": (32, 32)}),
        ("token_unet", (37, 35, 33), {"channels": (8, 8, 8), "transformer_layers": 1, "transformer_heads": 2}),
    ],
)
@torch.no_grad()
def test_an_exported_program_takes_any_size_and_batch(name, example, options):
    network = create_small(name, example, **options).eval()
    program = exported(network, images(*example), any_size=True).module()
    for batch, size in ((1, (21, 34, 17)), (3, (48, 24, 32))):
        x = images(*size[: len(example)], batch=batch)
        torch.testing.assert_close(program(x), network(x))


@pytest.mark.slow
@pytest.mark.parametrize(("label", "dims"), [("metaformer_segformer_*", 2), ("convformer_*", 3)])
def test_exports_as_recorded(label, dims):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    assert measure_exports(label, dims) == network_facts()["exports"][label][f"{dims}D"]
    assert set(network_facts()["exports"][label][f"{dims}D"]) == set(WAYS)


def test_exports_are_not_asked_for_where_there_is_no_alarm():
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="needs the main thread and a POSIX system"):
        pool.submit(how_it_exports, torch.nn.Conv2d(2, 3, 3)).result()


def test_an_export_that_does_not_end_is_asked_for_once_and_counts_as_none(monkeypatch):
    asked = []

    def endless(network, image, *, any_size):
        asked.append(any_size)
        while any_size:
            pass
        return exported(network, image, any_size=False)

    monkeypatch.setattr(exports, "exported", endless)
    monkeypatch.setattr(exports, "LIMIT_SECONDS", 0.5)
    monkeypatch.setitem(exports.WAYS, "again", exports.WAYS["torch.export"])
    network = torch.nn.Conv2d(2, 3, 3, padding=1)
    assert how_it_exports(network, ways=("torch.export", "again")) == {"torch.export": ONE_SIZE, "again": ONE_SIZE}
    assert asked == [True, False]
