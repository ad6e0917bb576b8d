"""Fast ways through whole modules, installed from outside: a subclass that computes the same as its base, faster."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from medmixers.kernels.eager import is_eager_on_cpu
from medmixers.layers.checkpointing import is_checkpointed


class FastModule(nn.Module):
    """Base of a module with a fast way for inference on a CPU.

    A subclass also inherits from ``plain``. The ``forward`` of ``plain`` stays the reference: it is traced, compiled,
    exported, scripted and trained. It also runs if someone changed a module that the fast way reads.
    """

    plain: ClassVar[type[nn.Module]]

    @classmethod
    def install(cls, network: nn.Module) -> None:
        """:func:`install` of this class."""
        install(network, [cls])

    def can_be_read(self) -> bool:
        """Whether the submodules that :meth:`fast_forward` reads instead of calling them are as ``plain`` made them."""
        raise NotImplementedError

    def fast_forward(self, *inputs: Any, **named: Any) -> Any:
        """The result of ``forward`` without gradients."""
        raise NotImplementedError

    # Not forward: torch.jit.script compiles the forward, which must stay the plain one.
    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if self._takes_fast_way(each for each in (*inputs, *named.values()) if isinstance(each, Tensor)):
            return self.fast_forward(*inputs, **named)
        return super().__call__(*inputs, **named)

    def _takes_fast_way(self, tensors: Iterable[Tensor]) -> bool:
        if torch.is_grad_enabled() or not is_eager_on_cpu(*tensors, *self.parameters()) or _has_any_global_hook():
            return False
        return not _is_changed(self) and self.can_be_read()


def is_exactly(module: nn.Module, *classes: type[nn.Module], **options: Any) -> bool:
    """Whether a call of the module computes what one of ``classes`` computes with these options.

    A subclass does not count (parametrisation makes one), nor does a module with hooks or with a forward of its own.
    """
    if type(module) not in classes or _is_changed(module):
        return False
    return all(getattr(module, name) == value for name, value in options.items())


def _is_changed(module: nn.Module) -> bool:
    """Whether the module has hooks on its forward, or a forward of its own. torch has no public query for hooks."""
    if module._forward_hooks or module._forward_pre_hooks:
        return True
    return "forward" in vars(module) and not is_checkpointed(module)


def install(network: nn.Module, classes: Iterable[type[FastModule]]) -> nn.Module:
    """Give every module of ``network`` the fast way that ``classes`` has for its class, and return the network.

    Weights, keys of the state dict and results stay the same.
    """
    fast = {each.plain: each for each in classes}
    for module in network.modules():
        if type(module) in fast:
            module.__class__ = fast[type(module)]
    return network
