"""A training that meets NaN ends before it saves anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundle_helpers import BRAIN, SHAPE, last_words, run_here, save, write_dataset

pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's, on every run


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "Dataset001_Tiny", training=6, held_out=0)
    save(data / "imagesTr" / "case_4_0000.nii.gz", np.full(SHAPE, np.nan, np.float32))  # behind those that are read
    out = {"ckpt_dir": str(tmp_path / "models"), "output_dir": str(tmp_path / "eval")}
    with pytest.raises(SystemExit) as error:
        run_here("train", bundle=BRAIN, dataset_dir=str(data), epochs=1, val_interval=1, batch_size=5, **out)
    assert last_words(error) == (
        "medmixers: error: the loss is nan in epoch 1, iteration 1 of 1: look for NaN in the images "
        "(`medmixers dataset check DATA` reads every voxel), or lower --learning_rate"
    )
    assert not list((tmp_path / "models").glob("*.pt"))
