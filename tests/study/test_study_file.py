"""The study's file: every fault at once with its line, entries that multiply, and their names."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults_of_lines import assert_fault

from medmixers.errors import FaultsError, InputError, MissingFileError
from medmixers.mixers import TOKEN_MIXERS
from medmixers.mixers.build import mixer_option_names
from medmixers.study.engine.slurm_options import Slurm
from medmixers.study.engine.spec import read_spec

GOOD = """\
study: mine
question: {metric: dice, margin: 0.01}
data:
  - {task: brain_tissue_segmentation, folder: brain}
  - {nnunet: 900, configuration: 3d_fullres}
entries:
  - {network: metaformer_segformer_s12, mixer: [identity, pooling], kernel_size: [3, 5]}
  - {network: token_unet}
seeds: [0, 1, 2]
folds: test
train: {epochs: 10}
run: {devices: [cpu, cpu], threads: 1, slurm: {partition: gpu, time: "24:00:00", mem: 32G, gpus: 1}}
"""


def write(folder: Path, text: str = GOOD) -> Path:
    file = folder / "study.yaml"
    file.write_text(text)
    return file


def names(folder: Path, entries: str) -> list[str]:
    head, _, rest = GOOD.partition("entries:\n")
    tail = rest[rest.index("seeds:") :]
    return [entry.name for entry in read_spec(write(folder, f"{head}entries:\n{entries}\n{tail}")).entries]


def test_a_file_is_read(tmp_path):
    spec = read_spec(write(tmp_path))
    assert spec.study == "mine"
    assert (spec.question.metric, spec.question.margin, spec.question.alpha) == ("dice", 0.01, 0.05)
    assert [(data.name, data.world) for data in spec.data] == [
        ("brain_tissue_segmentation", "bundle"),
        ("Dataset900", "nnunet"),
    ]
    assert spec.data[0].folder == tmp_path / "brain"
    assert {data.training.epochs for data in spec.data} == {10}
    assert spec.machine.slurm == Slurm(partition="gpu", time=24 * 60, mem="32G", gpus=1)
    assert (spec.seeds, spec.folds, spec.machine.devices) == ((0, 1, 2), None, ("cpu", "cpu"))


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("study: mine", "stud: mine", 1, "a study has no key 'stud'; valid: study"),
        ("study: mine", "study: my study", 1, "must be a file's name"),
        ("study: mine", "study: mine\nstudy: yours", 1, "'study' stands twice"),
        ("metric: dice", "metric: dise", 2, "unknown metric 'dise'; valid: dice"),
        (", margin: 0.01", "", 2, "question lacks 'margin'"),
        ("margin: 0.01", "margin: -1", 2, "margin must be a number above 0, got -1"),
        ("margin: 0.01", "margin: 0.01, alpha: 5", 2, "alpha must be a number above 0 and below 1, got 5"),
        ("margin: 0.01", "margin: 0.01, samples: folds", 2, "fold means are not independent samples"),
        ("margin: 0.01", "margin: 0.01, compare: {control: tokenunet}", 2, "unknown control 'tokenunet'; valid: "),
        ("margin: 0.01", "margin: 0.01, compare: best", 2, "compare must be all or {control: ENTRY}, got 'best'"),
        ("margin: 0.01", "margin: 0.01, sd: {seed: 0.01}", 2, "sd lacks 'residual'"),
        ("margin: 0.01", "margin: 0.01, sd: {seed: 1, residual: 1}, pilot: a.csv", 2, "give sd or pilot, not both"),
        ("task: brain_tissue", "task: brian_tissue", 4, "unknown task 'brian_tissue_segmentation'; valid: brain_tis"),
        (", folder: brain", "", 4, "lacks 'folder'"),
        ("folder: brain}", "folder: brain, train: {recipe: keuth}}", 4, "unknown recipe 'keuth'; valid: keuth2025"),
        ("nnunet: 900", "nnunet: brain", 5, "a number such as 900 or a name such as Dataset900_Name, got 'brain'"),
        ("3d_fullres", "3d_fulres", 5, "unknown configuration '3d_fulres'; valid: 3d_fullres"),
        ("nnunet: 900,", "nnunet: 900, name: brain_tissue_segmentation,", 5, "two data sets have the name"),
        ("metaformer_segformer_s12", "metaformer_segformer_s13", 7, "unknown network 'metaformer_segformer_s13'"),
        ("identity, pooling", "identity, poling", 7, "unknown token mixer 'poling'; valid: pooling"),
        ("network: token_unet", "network: 'monai:SwinUNET'", 8, "unknown network 'monai:SwinUNET'; valid: monai:Swin"),
        ("network: token_unet", "network: 'timm:convnext_tinny'", 8, "convnext_tinny'; valid: timm:convnext_tiny"),
        ("network: token_unet", "net: token_unet", 8, "an entry needs 'network', or 'nnunet'"),
        ("network: token_unet", "nnunet: nnUNetTrainr", 8, "unknown nnU-Net trainer 'nnUNetTrainr'; near"),
        ("network: token_unet", "nnunet: nnUNetTrainer, plans: ResEncS", 8, "unknown plans 'ResEncS'; valid: ResEnc"),
        ("network: token_unet", "network: token_unet, data: brain", 8, "unknown data set 'brain'; valid: Dataset900"),
        ("network: token_unet", "network: metaformer_segformer_s12, mixer: identity", 8, "as 'identity' in line 7"),
        ("[0, 1, 2]", "[0, 1, 1]", 9, "seeds must be a list of different whole numbers from 0, got [0, 1, 1]"),
        ("folds: test", "folds: train", 10, "folds must be a list of different whole numbers"),
        ("{epochs: 10}", "{epochs: 0}", 11, "epochs must be a whole number of at least 1, got 0"),
        ("{epochs: 10}", "{epoch: 10}", 11, "train has no key 'epoch'; valid: epochs"),
        ("{epochs: 10}", "{patch_size: 96}", 11, "patch_size must be a list of 2 or 3 whole numbers, got 96"),
        ("[cpu, cpu]", "[gpu]", 12, "devices must be a list such as [cuda:0, cuda:1] or [cpu, cpu], got ['gpu']"),
        ("[cpu, cpu]", "[cuda, cuda:0]", 12, "cuda:0 stands twice in devices: one training per GPU"),
        ("threads: 1", "threads: many", 12, "threads must be a whole number of at least 1, got 'many'"),
        ("partition: gpu", "partitoin: gpu", 12, "slurm has no key 'partitoin'; valid: partition"),
        ("partition: gpu", "partition: gpu --wrap", 12, "partition must be one word as sbatch takes it, got 'gpu --"),
        ('time: "24:00:00", ', "", 12, "slurm lacks 'time', the limit of one start, such as"),
        ('"24:00:00"', "24:00:00", 12, "in quotes; got 86400"),
        ('"24:00:00"', "'30'", 12, "time must be such as"),
        ('"24:00:00"', "'0:00:00'", 12, "time must be at least a minute, got '0:00:00'"),
        ("mem: 32G", "mem: 32 GB", 12, "mem must be a number with its unit, such as 32G, got '32 GB'"),
        ("gpus: 1", "gpus: 4", 12, "gpus must be 0 or 1: a training uses one GPU, got 4"),
        ("gpus: 1", "gpus: 1, gres: 'gpu:a100:1'", 12, "gres 'gpu:a100:1' asks for a GPU already; leave gpus out"),
    ],
)  # fmt: skip
def test_a_fault_names_its_line_and_what_is_valid(tmp_path, old, new, line, message):
    assert GOOD.count(old) == 1
    with pytest.raises(FaultsError) as caught:
        read_spec(write(tmp_path, GOOD.replace(old, new)))
    assert_fault(caught.value, line, message)


def test_all_faults_are_found_at_once(tmp_path):
    text = GOOD.replace("mine", "my study").replace("token_unet", "token_net").replace("0.01", "0").replace("10", "x")
    with pytest.raises(FaultsError) as caught:
        read_spec(write(tmp_path, text))
    lines = [int(each.split()[1].rstrip(":")) for each in str(caught.value).splitlines()[1:]]
    assert lines == [1, 2, 8, 11]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study: [", "is not valid YAML"),
        ("a: &x 1\nb: *x\n", "alias"),
        ("- a\n", "must be 'key: value' lines"),
        ("", "lacks 'study'"),
        ("study: !!python/object:os.system x", "not valid YAML"),
    ],
)
def test_what_is_no_study(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_spec(write(tmp_path, text))
    with pytest.raises(MissingFileError):
        read_spec(tmp_path / "absent.yaml")


def test_entries_multiply_and_a_mixer_without_kernel_is_one_entry(tmp_path):
    """The table of study.md: five mixers, two kernels; identity has no kernel."""
    mixers = "[identity, pooling, conv, grouped_conv, local_attention]"
    entries = f"  - {{network: metaformer_segformer_s12, mixer: {mixers}, kernel_size: [3, 5]}}\n"
    entries += "  - {network: token_unet}\n  - {network: 'monai:SwinUNETR', feature_size: 24}\n"
    entries += "  - {nnunet: nnUNetTrainer, name: nnunet}"
    with_kernel = [f"{mixer}_k{k}" for mixer in ("pooling", "conv", "grouped_conv", "local_attention") for k in (3, 5)]
    assert names(tmp_path, entries) == ["identity", *with_kernel, "token_unet", "SwinUNETR", "nnunet"]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ("  - {network: token_unet}", ["token_unet"]),
        ("  - {network: metaformer_segformer_s12, mixer: conv, kernel_size: 3}", ["metaformer_segformer_s12"]),
        ("  - {network: metaformer_segformer_s12, mixer: conv, kernel_size: [3, 5]}",
         ["metaformer_segformer_s12_k3", "metaformer_segformer_s12_k5"]),
        ("  - {network: metaformer_segformer_s12, mixer: [conv, identity], kernel_size: 3}", ["conv", "identity"]),
        ("  - {network: [metaformer_segformer_s12, metaformer_segformer_s24], mixer: [conv, pooling]}",
         [f"metaformer_segformer_{size}_{mixer}" for size in ("s12", "s24") for mixer in ("conv", "pooling")]),
        ("  - {network: metaformer_segformer_s12, mixer: [[pooling, pooling, conv, conv], [identity, identity, conv, "
         "conv]]}", ["pooling_pooling_conv_conv", "identity_identity_conv_conv"]),
        ("  - {name: swin, network: 'monai:SwinUNETR', feature_size: [24, 48]}",
         ["swin_feature_size_24", "swin_feature_size_48"]),
        ("  - {nnunet: nnUNetTrainer, plans: [default, ResEncM, ResEncL]}",
         ["nnUNetTrainer", "nnUNetTrainer_ResEncM", "nnUNetTrainer_ResEncL"]),
    ],
)  # fmt: skip
def test_names_are_made_of_what_differs(tmp_path, entries, expected):
    assert names(tmp_path, entries) == expected


@pytest.mark.parametrize("mixer", TOKEN_MIXERS)
def test_a_mixer_says_whether_it_has_a_kernel(mixer):
    assert TOKEN_MIXERS[mixer].has_kernel == ("kernel_size" in mixer_option_names(mixer))


@pytest.mark.parametrize(
    ("time", "minutes"),
    [("24:00:00", 1440), ("0:30:00", 30), ("0:00:30", 1), ("2-12", 3600), ("1-00:30", 1470), ("7-00:00:00", 10080)],
)
def test_a_time_limit_is_read_as_slurm_does(tmp_path, time, minutes):
    slurm = read_spec(write(tmp_path, GOOD.replace("24:00:00", time))).machine.slurm
    assert slurm is not None
    assert slurm.time == minutes


@pytest.mark.parametrize(
    ("asked", "gpus", "has_gpu"), [("", 1, True), ("gpus: 0", 0, False), ("gres: 'gpu:a100:1'", 0, True),
                                   ("gres: 'nvme:1'", 1, True)],
)  # fmt: skip
def test_a_job_asks_for_one_gpu_unless_told_otherwise(tmp_path, asked, gpus, has_gpu):
    slurm = read_spec(write(tmp_path, GOOD.replace("gpus: 1", asked))).machine.slurm
    assert slurm is not None
    assert (slurm.gpus, slurm.has_gpu) == (gpus, has_gpu)
