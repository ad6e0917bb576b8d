"""Operators of this package: cheap to begin with, and once per package."""

import subprocess
import sys

import torch

from medmixers.kernels import operators

STEP = """
import sys, torch
from medmixers import create_network
options = dict(spatial_dims=2, in_channels=1, out_channels=2, depths=(1,) * 4, dims=(8,) * 4, kernel_size=7)
before = set(sys.modules)
for mixer in ("grouped_conv", "pooling"):
    create_network("metaformer_s12", mixer=mixer, **options)(torch.randn(1, 1, 32, 32)).sum().backward()
print(*sorted(name for name in set(sys.modules) - before if name.split(".")[0] in ("torch", "sympy")))
"""


def test_a_training_step_imports_no_compiler():
    """torch.library.custom_op does so at its first call: a second of every training's start, and 160 MiB."""
    done = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_package_that_is_imported_again_keeps_its_operators():
    calls = []

    def again():
        return operators.operator(
            "twice_for_a_test(Tensor x) -> Tensor",
            lambda x: calls.append(x) or 2 * x,
            fake=torch.empty_like,
            keep=lambda ctx, inputs, output: None,
            gradients=lambda ctx, grad: (2 * grad,),
        )

    first, second = again(), again()
    assert first is second
    x = torch.ones(3, requires_grad=True)
    y = second(x)
    assert len(calls) == 1
    y.sum().backward()
    assert x.grad.tolist() == [2, 2, 2]
