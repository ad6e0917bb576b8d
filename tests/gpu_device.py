"""The device of the tests that need a GPU."""

import os

import pytest
import torch

DEVICE = os.environ.get("MEDMIXERS_TEST_DEVICE", "cuda")
NO_GPU = DEVICE == "cuda" and not torch.cuda.is_available()
on_a_gpu = [pytest.mark.gpu, pytest.mark.skipif(NO_GPU, reason="torch finds no GPU: nothing was run on one")]
