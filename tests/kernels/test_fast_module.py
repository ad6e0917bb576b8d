"""When a module's fast way runs, and when its plain forward does."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from medmixers.kernels.fast_module import FastModule, install, is_exactly
from medmixers.layers.checkpointing import checkpoint_blocks


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.act = nn.InstanceNorm2d(3), nn.GELU()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * self.act(self.norm(x))


class Fast(FastModule, Plain):
    plain = Plain

    def can_be_read(self):
        norm = is_exactly(self.norm, nn.InstanceNorm2d, nn.InstanceNorm3d, affine=False)
        return norm and is_exactly(self.act, nn.GELU, approximate="none")

    def fast_forward(self, x):
        return "fast"


@pytest.fixture
def block():
    return install(nn.Sequential(Plain()), [Fast])[0]


X = torch.randn(1, 3, 4, 4)


@torch.no_grad()
def is_fast(block, x=X):
    return isinstance(block(x), str)


def test_only_eager_inference_on_a_cpu_is_fast(block):
    assert is_fast(block)
    assert not is_fast(copy.deepcopy(block).to("meta"), X.to("meta"))
    assert block(X).requires_grad
    seen, frozen = [], copy.deepcopy(block).requires_grad_(False)
    torch.jit.trace(lambda y: (seen.append(is_fast(frozen, y)), y + 1)[1], X, check_trace=False)
    assert seen == [False]
    compiled = torch.compile(block, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(X), Plain()(X))
        torch.testing.assert_close(torch.export.export(block, (X,)).module()(X), Plain()(X))


def test_transforms_and_tangents_take_the_plain_forward(block):
    with torch.no_grad():
        expected = Plain()(X)
        torch.testing.assert_close(torch.vmap(block)(X.unsqueeze(1)).squeeze(1), expected)
        scales = torch.ones(1)
        of_scale = lambda scale: torch.func.functional_call(block, {"scale": scale}, X)  # noqa: E731
        torch.testing.assert_close(torch.vmap(of_scale)(scales).squeeze(0), expected)
        value, tangent = torch.func.jvp(of_scale, (torch.ones(()),), (torch.ones(()),))
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(tangent, expected)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(X, torch.zeros_like(X))
            torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(block(dual)).primal, expected)


@pytest.mark.parametrize("other", [nn.InstanceNorm2d(3, affine=True), nn.BatchNorm2d(3), nn.Identity()])
def test_replaced_modules_are_called(block, other):
    block.norm = other
    assert not is_fast(block)


def test_changed_options_and_forwards_are_called(block):
    block.act.approximate = "tanh"
    assert not is_fast(block)
    block.act.approximate = "none"
    assert is_fast(block)
    block.act.forward = torch.relu
    assert not is_fast(block)
    del block.act.forward
    assert is_fast(block)
    block.forward = torch.relu
    assert not is_fast(block)


def test_subclasses_and_parametrised_modules_are_no_longer_exact():
    conv = nn.Conv2d(3, 3, 1)
    assert is_exactly(conv, nn.Conv2d, groups=1)
    assert not is_exactly(conv, nn.Conv2d, groups=3)
    parametrize.register_parametrization(conv, "weight", nn.Identity())
    assert not is_exactly(conv, nn.Conv2d)
    assert not is_exactly(type("Other", (nn.GELU,), {})(), nn.GELU)


def test_modules_with_hooks_are_called(block):
    hear = nn.modules.module.register_module_forward_hook
    for part in (block, block.act):
        for listen in (part.register_forward_hook, part.register_forward_pre_hook, lambda hook: hear(hook)):
            handle = listen(lambda *_: None)
            assert not is_fast(block)
            handle.remove()
            assert is_fast(block)


def test_checkpointed_copied_and_saved_blocks_stay_fast(block):
    network = nn.Sequential(block)
    checkpoint_blocks(network, [Plain])
    assert is_fast(block)
    assert is_fast(copy.deepcopy(block))
    buffer = io.BytesIO()
    torch.save(install(nn.Sequential(Plain()), [Fast]), buffer)
    buffer.seek(0)
    assert is_fast(torch.load(buffer, weights_only=False)[0])


def test_only_modules_of_the_exact_class_are_changed():
    class Other(Plain):
        pass

    network = install(nn.Sequential(Other(), Plain(), nn.GELU()), [Fast])
    assert [type(module) for module in network] == [Other, Fast, nn.GELU]
    assert list(network.state_dict()) == ["0.scale", "1.scale"]
