"""A misspelled option, or a value of the wrong kind, ends in one line before anything is built."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import torch
from bundle_helpers import BRAIN, ONE_OF_EACH, ROOT, run_bundle, run_here, write_dataset
from monai.bundle import ConfigParser

from medmixers.bundle_runtime import options
from medmixers.bundle_runtime.options import build, check_names, check_options, check_value, option_names
from medmixers.bundle_runtime.stack import calling
from medmixers.errors import TRACEBACK_VARIABLE, InputError, MissingPackageError

pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's, on every run
# Values that are checked where they are used: the network, the data set, the writer of images.
CHECKED_ELSEWHERE = {
    *("evaluated_part", "image_key", "kernel_size", "label_names", "mixer", "network_name", "part"),
    *("output_dtype", "output_ext", "output_postfix", "pretrained_ckpt", "resume_ckpt", "window_device"),
    "openvino_precision",
}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("network_name", "x", "unknown network 'x'; valid: caformer_b36, "),
        ("network_name", "metaformer_segformer_12", "valid: metaformer_segformer_s12, "),
        ("kernel_size", 0, "kernel_size must be an odd integer >= 1, got 0"),
        ("mixer", "poolng", "unknown token mixer 'poolng'; valid: pooling, "),
        ("network_def#mixer", "poolng", "unknown token mixer 'poolng'; valid: pooling, "),
        ("network_def#mixr", "pooling", "has no option 'mixr'; valid: mixer, "),
        ("device", "abc", "--device must be a device of torch, for example cpu or cuda:0, got 'abc'"),
        ("epochs", "two", "--epochs must be a whole number >= 1, got 'two'"),
        ("epochz", 3, "this bundle has no option --epochz; nearest: --epochs; options are the top-level keys"),
        ("roi_size", [16, 16], "--roi_size must be a list of 3 whole numbers >= 1, got [16, 16]"),
        ("early_stop", "true", "--early_stop must be True or False, got 'true'"),
        ("seed", "abc", "--seed must be a whole number >= 0, got 'abc'"),
    ],
)
def test_a_wrong_option_ends_the_training_in_one_line(
    option: str, value: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_dataset(tmp_path / "Dataset001_Tiny", training=2, held_out=0)
    out = {"ckpt_dir": str(tmp_path / "models"), "output_dir": str(tmp_path / "eval")}
    with pytest.raises(SystemExit) as error:
        run_here("train", bundle=BRAIN, dataset_dir=str(data), **{**out, option: value})
    assert error.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("medmixers: error: ")
    assert message in last
    assert not (tmp_path / "models").exists()


def test_a_command_has_one_line_and_status_2(tmp_path: Path) -> None:
    done = run_bundle(tmp_path, "inference", mixer="poolng", output_dir=str(tmp_path))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("medmixers: error: unknown token mixer")]
    assert len(lines) == 1


def test_the_variable_shows_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")
    with pytest.raises(RuntimeError) as error:  # MONAI's, around ours
        run_here("inference", bundle=BRAIN, mixer="poolng", output_dir=str(tmp_path))
    assert "unknown token mixer" in str(error.value.__cause__)


def test_loading_the_network_needs_no_data_and_ends_no_process(tmp_path: Path) -> None:
    """MONAI's default is the training config: its ``initialize`` must not look for a data set."""
    arguments = tmp_path / "arguments.json"
    bundle = ROOT / "bundles" / BRAIN
    arguments.write_text(json.dumps({"bundle_root": str(bundle)}))
    for kind in ("train", "inference"):
        flow = monai.bundle.create_workflow(
            config_file=str(bundle / "configs" / f"{kind}.json"), args_file=str(arguments), workflow_type=kind
        )
        assert isinstance(flow.network_def, torch.nn.Module)
    flow = monai.bundle.create_workflow(
        config_file=str(bundle / "configs" / "train.json"), args_file=str(arguments), **{"network_def#mixer": "poolng"}
    )
    with pytest.raises(RuntimeError):
        _ = flow.network_def


def test_names_that_another_key_refers_to_are_no_mistake() -> None:
    written = {"epochs": 1, "run": ["$@epochs"], "network_def": {"_target_": "x"}}
    mine = {"epochs": 2, "tracking_uri": "somewhere", "handler": {"_target_": "x", "uri": "@tracking_uri"}}
    check_names({**written, **mine, "my_run": ["$print(1)"], "_meta_": {}}, written)
    with pytest.raises(InputError, match="no option --epoch; nearest: --epochs; options are"):
        check_names({**written, "epoch": 3}, written)
    with pytest.raises(InputError, match="no option --xyz; options are"):
        check_names({**written, "xyz": [1, 2]}, written)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("epochs", [1, 300], [0, 1.5, True, "3", None]),
        ("num_workers", [0], [-1]),
        ("amp", [True, False], [0, "False"]),
        ("learning_rate", [0, 1e-4], [-1.0, "1e-3", None, True]),
        ("overlap", [0, 0.5], [1.0, "0.5"]),
        ("cache_rate", [0, 1.0], [1.5]),
        ("mirror_axes", [[], [0], (0, 1)], [0, "0", [0.5], [True]]),
        ("ensemble", [[], "a.pt,b.pt", ("a.pt", "b.pt")], [0, True, {"a": 1}]),
        ("cache_dir", [None, "folder"], [True, 1, ["folder"]]),
        ("save_probabilities", [True, False], ["true", 1, None]),
        ("image_size", [[8, 8], (8, 8)], [[8], [8, 0], 8, [8, 8, 8]]),
        ("device", ["cpu", torch.device("cpu")], ["gpu", f"cuda:{torch.cuda.device_count()}"]),
        ("title", ["anything"], []),
    ],
)
def test_values(name: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        check_value(name, value, [32, 32])
    for value in bad:
        with pytest.raises(InputError, match=f"--{name} must be .*, got "):
            check_value(name, value, [32, 32])


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_option_of_a_bundle_is_checked_and_every_default_passes(name: str) -> None:
    checked = {
        *options.WHOLE_NUMBERS,
        *options.SWITCHES,
        *options.NUMBERS,
        *options.SIZES,
        "device",
        "ensemble",
        "mirror_axes",
    }
    written: dict[str, Any] = {}
    for path in sorted((ROOT / "bundles" / name / "configs").glob("*.json")):
        if path.name != "metadata.json":
            written |= json.loads(path.read_text())
    for key in option_names(written):
        assert key in checked | CHECKED_ELSEWHERE or key.endswith(("_dir", "_path", "_root"))
        if not (isinstance(written[key], str) and written[key].startswith("$")):
            check_value(key, written[key], written[key])
    assert {"epochs", "device", "num_workers", "network_name"} <= set(option_names(written))


def test_outside_of_a_run_nothing_is_checked_and_nothing_can_be_built() -> None:
    assert calling("ConfigWorkflow") is None
    check_options()
    with pytest.raises(RuntimeError, match="'network_def' can be built only while MONAI builds"):
        build("network_def")


def test_a_package_that_a_component_lacks_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """MONAI raises a RuntimeError that names the package, and wraps it twice. Other errors keep their traceback."""
    from monai.handlers import tensorboard_handlers

    handler = {"_target_": "TensorBoardStatsHandler", "log_dir": "x", "_disabled_": "$@is_off"}
    hd95 = {"_target_": "medmixers.bundle_runtime.overlap.hausdorff95_mm", "include_background": False}
    hd95["output_transform"] = "$lambda output: output"
    wrong = {"_target_": "Compose", "no": 1}
    parser = ConfigParser({"is_off": False, "handlers": [handler], "hd95": hd95, "wrong": wrong})
    monkeypatch.setattr(options, "calling", lambda name: parser)
    monkeypatch.setattr(tensorboard_handlers, "_tb_available", False)
    with pytest.raises(MissingPackageError, match=r"a package is missing: .* pip install tensorboard"):
        build("handlers")
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingPackageError, match=r"a package is missing: .*scipy"):
        build("hd95")
    with pytest.raises(RuntimeError, match="Failed to instantiate"):
        build("wrong")
