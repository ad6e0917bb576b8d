"""Trainings of nnU-Net on a GPU, where it compiles the network by default."""

import pytest
from nnunet_workplace import MODEL, Workplace, write_cases

from gpu_device import DEVICE, on_a_gpu

pytestmark = on_a_gpu
EPOCHS = 3


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    work = Workplace(tmp_path_factory.mktemp("nnunet"))
    write_cases(work.raw)
    work.run("nnUNetv2_plan_and_preprocess", "-d", "900", "-c", "3d_fullres", "-npfp", "1", "-np", "1", "--no_pbar")
    return work


@pytest.mark.parametrize("compile", ["true", "false"])
@pytest.mark.parametrize("trainer", ["nnUNetTrainerMetaFormerGroupedConv", "nnUNetTrainerTokenUNet"])
def test_trains_predicts_and_scores(trainer, compile, work):
    options = {"MEDMIXERS_EPOCHS": str(EPOCHS), "MEDMIXERS_ITERATIONS_PER_EPOCH": "10", "nnUNet_compile": compile}
    log = work.run("nnUNetv2_train", *MODEL, "-tr", trainer, "-device", DEVICE, **options)
    assert log.count("train_loss ") == EPOCHS
    assert "nan" not in log.partition("Epoch 0")[2].lower()
    assert "Mean Validation Dice" in log
