"""Triton's depthwise convolution without a GPU: its numbers as interpreted, and that it compiles for GPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed: its depthwise convolution is not checked")

COMPILED = """
import types, torch
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver
from medmixers.kernels.depthwise import TRITON, convolve

target = GPUTarget("cuda", 80, 32)  # an A100
driver.set_active(types.SimpleNamespace(
    get_current_device=lambda: 0, get_current_stream=lambda device: 0, get_current_target=lambda: target))
run = JITFunction.run

def compile_only(self, *arguments, warmup, **options):
    kernel = run(self, *arguments, warmup=True, **options)
    assert len(kernel.asm["cubin"]) > 1000
    print(kernel.name)

JITFunction.run = compile_only
for dtype, kernel_size in ((torch.float32, 3), (torch.bfloat16, 7)):
    x = torch.randn(1, 2, 8, 9, 8, dtype=dtype, requires_grad=True)
    weight = torch.randn(2, 1, *(kernel_size,) * 3, dtype=dtype, requires_grad=True)
    convolve(x, weight, weight[:, 0, 0, 0, 0], TRITON).sum().backward()
"""


def run(*command, **environment):
    out = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=os.environ | environment)
    assert out.returncode == 0, out.stdout + out.stderr
    return out.stdout


@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_interpreted_it_equals_torchs_own(which):
    cases = Path(__file__).with_name("triton_cases.py")
    assert " passed" in run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", which, str(cases), TRITON_INTERPRET="1"
    )


def test_it_compiles_for_a_gpu_that_is_not_here(tmp_path):
    lines = run("-c", COMPILED, TRITON_CACHE_DIR=str(tmp_path)).splitlines()
    assert lines == 2 * ["_convolve", "_convolve", "_correlate"]
