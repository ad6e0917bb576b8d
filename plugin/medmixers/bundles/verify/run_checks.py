"""Checks that run a bundle: on synthetic data, with MONAI's own commands, in the loading orders of its consumers."""

from __future__ import annotations

import csv
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medmixers.bundles.share.export import MODELS, assert_close
from medmixers.bundles.verify.static_checks import workflows
from medmixers.bundles.verify.subject import SkippedCheck, Subject, demand
from medmixers.checkpoints import read_checkpoint
from medmixers.datasets.raw_format import stem_and_ending


def check_net_in_out(subject: Subject) -> str:
    """4: MONAI's verify_net_in_out."""
    _export_command(subject, "verify_net_in_out", "--device", "cpu", "--bundle_root", str(subject.root))
    return "from a foreign working directory"


def check_built_properties(subject: Subject) -> str:
    """5: MONAI builds every property of training, training + evaluation, and inference."""
    from monai.bundle import ConfigWorkflow

    data: dict[str, Any] = {"datalist": []} if subject.is_of_nnunet else {"dataset_dir": str(subject.dataset)}
    for configs, workflow in workflows(subject):
        flow = ConfigWorkflow(
            config_file=[str(subject.root / "configs" / f"{config}.json") for config in configs],
            workflow_type=workflow,
            logging_file=False,
            bundle_root=str(subject.root),
            output_dir=str(subject.scratch / "properties"),
            ckpt_dir=str(subject.scratch / "properties"),
            load_pretrain=False,
            cache_rate=0,
            **data,
        )
        flow.parser.parse(reset=True)  # as ``initialize`` does before it runs the config's own expressions
        flow._is_initialized = True
        missing = flow.check_properties()
        demand(missing == [], f"{' + '.join(configs)}: {missing}")
    return ", ".join(" + ".join(configs) for configs, _ in workflows(subject))


def check_one_epoch(subject: Subject) -> str:
    """6: training, evaluation and inference; outputs are on disk, in the geometry of their images."""
    subject.demand_training()
    trained, evaluated = subject.trained, subject.scratch / "evaluated"
    paths = {"dataset_dir": str(subject.dataset), "ckpt_dir": str(trained), "output_dir": str(evaluated)}
    subject.run(("train", "evaluate"), paths)
    tables = sorted(path.name for path in evaluated.glob("*.csv"))
    demand(tables, "evaluation wrote no CSV")
    predict(subject, "predicted", weights=subject.weights)
    return f"{len(subject.held_out)} cases predicted; evaluation wrote {', '.join(tables)}"


def predict(subject: Subject, folder: str, *, weights: Path, root: Path | None = None, hidden: bool = False) -> None:
    """Predictions of the held-out cases, checked."""
    output = subject.scratch / folder
    paths = {"dataset_dir": str(subject.dataset), "output_dir": str(output), "ckpt_path": str(weights)}
    subject.run(("inference",), paths, root=root, hidden=hidden)
    check_outputs(subject, output)


def check_outputs(subject: Subject, output: Path) -> None:
    """Demand a prediction per held-out case: an image on its voxel grid, or a row of probabilities."""
    if subject.is_classification:
        tables = list(output.glob("*.csv"))
        demand(len(tables) == 1, f"one table of probabilities was expected, got {[path.name for path in tables]}")
        with open(tables[0], newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))[1:]
        demand(len(rows) == len(subject.held_out), f"{len(rows)} rows for {len(subject.held_out)} images")
        return
    from monai.data import MetaTensor
    from monai.transforms import LoadImage

    load = LoadImage(image_only=True)
    by_name = {path.name: path for path in output.rglob("*") if path.is_file()}
    for entry in subject.held_out:
        first = Path(entry[0] if isinstance(entry, list) else entry)
        stem, _ = stem_and_ending(first)
        found = [path for name, path in by_name.items() if name.startswith(stem)]
        demand(found, f"there is no prediction of {first.name}, but {sorted(by_name)}")
        image = load(first)
        for path in found:
            pred = load(path)
            dims = 3 if path.name.endswith(".nii.gz") else 2
            demand(pred.shape[:dims] == image.shape[:dims], f"{path.name}: {pred.shape}, image {image.shape}")
            if isinstance(pred, MetaTensor) and dims == 3:
                demand(
                    bool(abs(pred.affine - image.affine).max() < 1e-4), f"{path.name}: another affine than its image"
                )


def check_two_ranks(subject: Subject) -> str:
    """7: the multi-GPU overlay, two gloo ranks on the CPU."""
    subject.demand_training()
    subject.train("two_ranks", "multi_gpu_train", ranks=2, epochs="1")
    return "gloo"


def check_weights(subject: Subject) -> str:
    """8: flat, the network's keys, tensors only; monai.bundle.load gives the same numbers as loading them by hand."""
    import torch
    from monai.bundle import load

    content = read_checkpoint(subject.weights)
    network = subject.network()
    expected = network.state_dict()
    demand(all(isinstance(value, torch.Tensor) for value in content.values()), "model.pt is not flat")
    demand(list(content) == list(expected), "the keys of model.pt are not the network's, in its order")
    network.load_state_dict(content)
    arguments = subject.scratch / "arguments.json"
    arguments.write_text(json.dumps({"bundle_root": str(subject.root)}))
    loaded = load(
        subject.root.name,
        bundle_dir=str(subject.root.parent),
        source="github",
        workflow_type="inference",
        args_file=str(arguments),
        device="cpu",
    )
    image = torch.rand(subject.example_shape)
    with torch.no_grad():
        demand(torch.equal(loaded.eval()(image), network(image)), "monai.bundle.load gives other logits")
    return f"{len(content)} tensors"


def check_exports(subject: Subject) -> str:
    """9: MONAI's ckpt_export and onnx_export, and the files that the zip holds; all give the network's numbers."""
    import torch

    network, image = _with_weights(subject), torch.rand(subject.example_shape)
    exported = subject.scratch / "exported"
    exported.mkdir(exist_ok=True)
    # As the README of a model zoo has it; networks of other libraries need not be scriptable.
    trace = ("--use_trace", "True") if subject.is_of_nnunet or subject.has_peer else ()
    options = ("--ckpt_file", str(subject.weights), *trace, "--bundle_root", str(subject.root))
    _export_command(subject, "ckpt_export", "--filepath", str(exported / "model.ts"), *options)
    if find_spec("onnx") and find_spec("onnxscript"):
        _export_command(subject, "onnx_export", "--filepath", str(exported / "model.onnx"), *options)
    root, lacks = subject.unpacked
    with torch.no_grad():
        expected = network(image)
        for path in (exported / "model.ts", root / "models" / "model.ts"):
            if path.is_file():
                given = torch.jit.load(str(path), map_location="cpu")(image)
                assert_close(given, expected)
    onnx = root / "models" / "model.onnx"
    if onnx.is_file() and find_spec("onnxruntime"):
        import onnxruntime

        session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
        (given,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        assert_close(torch.from_numpy(given), expected)
    demand("model.ts" not in lacks, f"no model.ts: {lacks.get('model.ts')}")
    return "; ".join([", ".join(sorted(MODELS.keys() - lacks.keys())), *(f"no {k}: {v}" for k, v in lacks.items())])


def check_zip(subject: Subject) -> str:
    """10: the unpacked zip predicts where this package and everything that it does not require are hidden."""
    root, _ = subject.unpacked
    predict(subject, "hidden_predictions", root=root, hidden=True, weights=root / "models" / "model.pt")
    return "the same interpreter, with every other package hidden"


def check_consumers(subject: Subject) -> str:
    """11: the loading orders of 3D Slicer, MONAI Label and MONAI Deploy, and two bundles in one process."""
    import torch

    root, _ = subject.unpacked
    _as_slicer(subject, root)
    if subject.is_of_nnunet:
        return "Slicer; MONAI Label's writer asks for MONAI's image geometry"
    logits = _as_label(subject, root)
    if (root / "models" / "model.ts").is_file():
        extra = {"metadata.json": "", "inference.json": ""}
        model = torch.jit.load(str(root / "models" / "model.ts"), map_location="cpu", _extra_files=extra)
        demand(json.loads(extra["metadata.json"]) == subject_metadata(root), "model.ts holds other metadata")
        demand(set(json.loads(extra["inference.json"])) >= {"preprocessing", "inferer"}, "model.ts lacks the configs")
        assert_close(_label_forward(subject, root, model), logits)
    other = subject.scratch / "second" / f"{root.name}_second"
    shutil.copytree(root, other, dirs_exist_ok=True)
    demand(torch.equal(_as_label(subject, other), logits), "the second bundle in one process gives other logits")
    return "Slicer, Label, Deploy, two bundles"


def subject_metadata(root: Path) -> Any:
    """metadata.json of an unpacked bundle."""
    return json.loads((root / "configs" / "metadata.json").read_text("utf-8"))


def _parser(subject: Subject, root: Path, output: str) -> Any:
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "inference.json"))
    parser["bundle_root"] = str(root)
    parser["dataset_dir"] = str(subject.dataset)
    parser["output_dir"] = str(subject.scratch / output)
    parser["device"] = "cpu"
    return parser


def _as_slicer(subject: Subject, root: Path) -> None:
    """Sets keys, builds ``evaluator`` and runs it; ``initialize`` is never run, so a handler must load the weights."""
    parser = _parser(subject, root, "slicer")
    parser["datalist"] = subject.held_out
    parser["dataloader"]["num_workers"] = 0
    if "SlidingWindow" in parser["inferer"]["_target_"]:
        parser["inferer"]["device"] = "cpu"
    evaluator = parser.get_parsed_content("evaluator")
    evaluator.run()
    check_outputs(subject, subject.scratch / "slicer")
    expected = _with_weights(subject, root).state_dict()
    same = all(bool((value == expected[key]).all()) for key, value in evaluator.network.state_dict().items())
    demand(same, "the evaluator ran with other weights than models/model.pt")


def _as_label(subject: Subject, root: Path) -> Any:
    """Takes network_def, preprocessing, inferer and postprocessing one by one, and loads the weights itself."""
    return _label_forward(subject, root, _with_weights(subject, root))


def _label_forward(subject: Subject, root: Path, network: Any) -> Any:
    import torch

    parser = _parser(subject, root, "label")
    preprocessing, inferer, postprocessing = (
        parser.get_parsed_content(key) for key in ("preprocessing", "inferer", "postprocessing")
    )
    item = preprocessing({"image": subject.held_out[0]})
    with torch.no_grad():
        logits = inferer(item["image"][None], network)
    postprocessing({**item, "pred": logits[0]})
    return torch.as_tensor(logits)


def check_seeds(subject: Subject) -> str:
    """12: a second training gives the same weights."""
    subject.demand_training()
    first, second = (_tensors(folder / "model.pt") for folder in (subject.trained, subject.train("again")))
    differing = [key for key, value in first.items() if not bool((value == second[key]).all())]
    demand(not differing, f"{len(differing)} of {len(first)} tensors differ, {differing[:1]} for example")
    return "identical weights"


def check_resume(subject: Subject) -> str:
    """14: a training goes on from its checkpoint; one that does not improve stops early."""
    subject.demand_training()
    states = sorted(subject.trained.glob("resume*.pt"))
    demand(states, "training left no state to resume from")
    paths = {"dataset_dir": str(subject.dataset), "output_dir": str(subject.scratch / "resumed" / "eval")}
    paths["ckpt_dir"] = str(subject.scratch / "resumed")
    log = subject.run(("train",), {**paths, "epochs": "3", "val_interval": "1", "resume_ckpt": str(states[-1])})
    demand("Epoch: 3/3" in log and "Epoch: 1/3" not in log, "the resumed training did not go on at epoch 3")
    paths["ckpt_dir"] = str(subject.scratch / "stopped")
    still = {"epochs": "6", "val_interval": "1", "learning_rate": "0", "early_stop": "True", "patience": "1"}
    log = subject.run(("train",), {**paths, **still})
    demand("Epoch: 2/6" in log and "Epoch: 6/6" not in log, "a training that stands still was not stopped early")
    return "goes on at epoch 3 of 3; stops before epoch 6"


def check_nnunet(subject: Subject) -> str:
    """15: a bundle of an nnU-Net model segments as nnU-Net's own predictor does with the same plans and weights."""
    if not subject.is_of_nnunet:
        raise SkippedCheck("not made of an nnU-Net model")
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    given, expected = subject.scratch / "of_bundle", subject.scratch / "of_nnunet"
    expected.mkdir()
    device = {"device": "cpu", "dataset_dir": str(subject.dataset), "output_dir": str(given)}
    subject.run(("inference",), device)
    predictor = nnUNetPredictor(perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False)
    folds = tuple(subject.config("inference")["network_def"]["folds"])
    predictor.initialize_from_trained_model_folder(str(_nnunet_model(subject, folds)), folds)
    for entry in subject.held_out:
        files = entry if isinstance(entry, list) else [entry]
        name, ending = stem_and_ending(files[0])
        predictor.predict_from_files_sequential([files], [str(expected / name)])
        same = (given / f"{name}{ending}").read_bytes() == (expected / f"{name}{ending}").read_bytes()
        demand(same, f"{name}{ending} is not what nnU-Net's predictor writes")
    return f"{len(subject.held_out)} cases, identical files"


def _nnunet_model(subject: Subject, folds: tuple[str, ...]) -> Path:
    """The model folder that the bundle was made of, as far as prediction reads it."""
    import torch

    config, weights = subject.config("inference"), _tensors(subject.weights)
    model = subject.scratch / "nnunet_model"
    shutil.copytree(subject.root / "configs" / "nnunet", model)
    for fold in folds:
        prefix = f"folds.{fold}."
        saved = {
            "network_weights": {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)},
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": config["plans"]["configuration"]},
            "inference_allowed_mirroring_axes": config["inferer"]["mirror_axes"],
        }
        (model / f"fold_{fold}").mkdir()
        torch.save(saved, model / f"fold_{fold}" / "checkpoint_final.pth")
    return model


def _with_weights(subject: Subject, root: Path | None = None) -> Any:
    network = subject.network()
    network.load_state_dict(_tensors(root / "models" / "model.pt" if root else subject.weights))
    return network


def _tensors(path: Path) -> dict[str, Any]:

    content: dict[str, Any] = read_checkpoint(path)
    return content


def _export_command(subject: Subject, command: str, *options: str) -> None:
    configs = subject.root / "configs"
    files = ["--meta_file", str(configs / "metadata.json"), "--config_file", str(configs / "inference.json")]
    subject.python(["-m", "monai.bundle", command, "network_def", *files, *options])
