"""The command ``medmixers``, mostly in this process; what depends on the process runs in one of its own."""

import csv
import inspect
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from medmixers import __file__ as package_file
from medmixers.bundle_runtime.allocator import ALLOCATOR_VARIABLES
from medmixers.cli import main as cli
from medmixers.cli.commands import commands_of, declared, kind_of
from medmixers.cli.help import examples
from medmixers.cli.words import bind, find_command
from medmixers.errors import TRACEBACK_VARIABLE, InputError
from medmixers.files import written_whole
from medmixers.nnunet.environment import stock_commands
from medmixers.variants import NETWORKS

COMMANDS = {
    (group, *([name] if name else [])): command
    for group, item in cli.GROUPS.items()
    for name, command in (commands_of(item).items() if isinstance(item, type) else [("", item)])
}


@pytest.fixture
def medmixers(capsys, monkeypatch, tmp_path):
    """Run the command here, in an empty folder; its status and what it wrote."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(TRACEBACK_VARIABLE, raising=False)

    def run(*words):
        status = 0
        try:
            cli.main([str(word) for word in words])
        except SystemExit as exit:
            status = int(exit.code or 0)
        out, err = capsys.readouterr()
        return SimpleNamespace(status=status, out=out, err=err)

    return run


def process(*words, **options):
    command = [sys.executable, "-m", "medmixers", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("networks", "token_unet "),
        ("mixers", "grouped_conv "),
        ("tasks", "brain_tissue_segmentation "),
        ("bundles", "brain_tissue_segmentation_grouped_conv "),
        ("nnunet_commands", "nnUNetv2_train"),
    ],
)
def test_list(what, expected, medmixers):
    out = medmixers("list", what)
    assert out.status == 0
    assert any(line.startswith(expected) for line in out.out.splitlines())


def test_options_of_a_network_are_those_that_it_takes(medmixers):
    lines = medmixers("list", "options", "metaformer_pppa_s12").out.splitlines()
    rows = {re.split(r"\s{2,}", line)[0]: re.split(r"\s{2,}", line) for line in lines[1:]}
    assert rows["kernel_size"][1] == "an integer or a sequence of integers or None"
    assert rows["mixer"][2] == "pooling,pooling,pooling,global_attention", "the name fixes it"
    for network in ("token_unet", "med_next_keuth2025", "swin_unetr"):
        if network in NETWORKS:
            out = medmixers("list", "options", network)
            assert out.status == 0
            assert all(len(re.split(r"\s{2,}", line)) == 4 for line in out.out.splitlines()), "each has a meaning"


# help


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_the_overview_has_one_line_for_each_command(words, medmixers):
    out = medmixers(*words)
    assert out.status == 0
    for path in COMMANDS:
        (line,) = [line for line in out.out.splitlines() if re.match(rf" *medmixers {' '.join(path)}  ", line)]
        assert len(line) <= 120
    assert "--version" in out.out


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_of_each_command(path, flag, medmixers):
    command = COMMANDS[path]
    out = medmixers(*path, flag)
    assert (out.status, out.err) == (0, "")
    assert out.out.startswith(f"usage: medmixers {' '.join(path)}")
    rows = [line.strip() for line in out.out.partition("arguments:\n")[2].splitlines()]
    for each in declared(command):
        needed = each.default is each.empty
        name = each.name.upper() if needed and each.kind is not each.KEYWORD_ONLY else f"--{each.name}"
        text = " ".join(rows[next(i for i, row in enumerate(rows) if row.split()[:1] == [name]) :])
        kind = {int: "integer", float: "number", bool: "switch", str: "text"}.get(kind_of(each), "size")
        assert re.match(rf"{name} +\w.* \({kind}[^()]*; {'required' if needed else 'default'}[^()]*\)", text), text
    assert "example:\n  " in out.out


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_example_of_each_command_is_accepted(path):
    for line in examples(COMMANDS[path]):
        words = shlex.split(re.sub(r'^eval "\$\((.*)\)"$', r"\1", line))
        assert words[0] == "medmixers"
        found, rest = find_command(words[1:], cli.GROUPS)
        assert tuple(found) == path
        if path != ("nnunet", "run"):
            assert callable(bind(found, rest, COMMANDS[path]))


def test_the_example_of_run_is_a_command_of_nnunet():
    (line,) = examples(COMMANDS["nnunet", "run"])
    assert line.split()[3] in stock_commands()


def test_help_of_a_group(medmixers):
    for words in (["nnunet"], ["nnunet", "--help"], ["nnunet", "-h"]):
        out = medmixers(*words)
        assert out.status == 0
        assert out.out.count("\n  medmixers nnunet ") == len(commands_of(cli.NnUNet))


def test_version(medmixers):
    from importlib.metadata import version

    assert medmixers("--version").out == f"medmixers {version('medmixers')}\n"


def test_completion_script_knows_the_commands(medmixers):
    script = medmixers("--", "--completion").out
    assert "_complete-medmixers" in script
    assert "to-bundle" in script


@pytest.mark.parametrize("words", [["--help"], ["list", "networks"], ["nnunet", "plan", "--help"], ["demo", "dat"]])
def test_start_is_quick_and_without_torch(words):
    code = (
        "import sys\nfrom medmixers.cli.main import main\ntry:\n    main(sys.argv[1:])\nfinally:\n"
        "    print(sorted({'torch', 'monai', 'nnunetv2', 'numpy', 'scipy'} & set(sys.modules)), file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert out.stderr.splitlines()[-1] == "[]"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1  # 0.1 s where nothing else runs


# words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["profile", "metaformer_s13"], "unknown network 'metaformer_s13'; valid: metaformer_s"),
        (
            ["profile", "metaformer_s12", "--mixer", "poling"],
            "unknown token mixer 'poling'; valid: pooling, ...; 'medmixers list mixers' lists all 15",
        ),
        (["profile", "metaformer_s12", "--kernal_size", "3"], "has no option 'kernal_size'; valid: kernel_size, "),
        (["profile", "token_unet", "--channels", "32"], "channels must be a sequence of integers, got 32"),
        (["profile", "token_unet", "--num_tokens", "many"], "num_tokens must be an integer, got 'many'"),
        (["profile", "token_unet", "--repeat", "1"], "has no option 'repeat'; valid: "),
        (["profile", "token_unet", "--repeat", "1"], "(or did you mean --repeats?)"),
        (["profile", "token_unet", "--size", "64"], "size must be 2 or 3 extents, got 64"),
        (["profile", "token_unet", "--repeats", "0"], "repeats must be at least 1, got 0"),
        (["profile", "token_unet", "--threads", "0"], "threads must be at least 1, got 0"),
        (["profile", "token_unet", "--size", "abc"], "size must be whole numbers, as 224,224 or 96,96,96, got 'abc'"),
        (["profile", "token_unet", "--size", "0,32,32"], "size must be at least 1 voxel along each axis, got (0, 32"),
        (
            ["profile", "token_unet", "--size", "8,8,8", "--device", "foo"],
            "device 'foo' cannot be used here; valid: cpu",
        ),
        (["profile", "all", "--size", "0,8"], "size must be at least 1 voxel along each axis, got (0, 8)"),
        (["profile", "token_unet", "--size", "8,8", "--csv", "/dev/null/costs.csv"], "/dev/null"),
        (["profile", "token_unet", "-size", "8,8,8", "-x", "1"], "there is no flag -x; valid: --csv, --device"),
        (["profile"], "missing argument NAME; usage: medmixers profile NAME [--FLAG VALUE ...]; see: medmixers"),
        (
            ["demo", "data", "d", "--cases", "2", "--held_out", "1", "--sead", "1"],
            "no flag --sead; valid: --seed, --cases",
        ),
        (["demo", "data", "d", "--cases", "x"], "cases must be a whole number, got 'x'"),
        (["demo", "data", "d", "--cases"], "--cases needs a value"),
        (["demo", "data", "d", "--cases", "--seed", "1"], "--cases needs a value"),
        (["demo", "data"], "missing argument OUT; usage: medmixers demo data OUT [--FLAG VALUE ...]"),
        (["demo", "data", "d", "2", "1", "0", "upper"], "too many words, from 'upper' on; usage: medmixers demo data"),
        (["demo", "data", "d", "2", "1", "0", "__class__"], "too many words; usage: medmixers demo data"),
        (["demo", "data", "d", "--", "--trace"], "there is no flag --; valid: "),
        (["nnunet", "env", "--cpu=maybe"], "cpu must be True or False, got 'maybe'"),
        (["demo", "dat", "d"], "there is no command 'dat'; valid: data, predict; see: medmixers demo --help"),
        (
            ["fly"],
            "there is no command 'fly'; valid: bundle, clinic, dataset, demo, explain, list, nnunet, profile, study; ",
        ),
        (["datset", "check", "d"], "there is no command 'datset'; valid: dataset, "),
        (["--seed", "1"], "there is no flag --seed before a command; see: medmixers --help"),
        (["demo", "--seed", "1"], "there is no flag --seed before a command; see: medmixers demo --help"),
        (["list", "networks", "upper"], "too many words, from 'upper' on; usage: medmixers list networks"),
        (["dataset", "check", "900"], "900"),
        (["dataset", "check", "no_such_folder"], "no_such_folder"),
        (["dataset", "convert", "brain", "a", "b"], "brain"),
        (["study", "report", "no_such_folder"], "no_such_folder is not the folder of a study"),
        (["explain", "attention", "no_model", "image.nii.gz", "out.nii.gz"], "no_model is neither a trained nnU-Net"),
        (
            ["nnunet", "run", "nnUNetv2_fly"],
            "'nnUNetv2_fly' is not an nnU-Net command; valid: nnUNetv2_",
        ),
        (["nnunet", "run", "nnUNetv2_trian"], "valid: nnUNetv2_train, "),
        (["list", "options", "token_unit"], "unknown network 'token_unit'; valid: token_unet, "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_ends_in_one_line(arguments, message, medmixers, tmp_path):
    out = medmixers(*arguments)
    assert out.status == 2
    lines = [line for line in out.err.splitlines() if "Warning" not in line and "warnings.warn" not in line]
    assert len(lines) == 1, out.err
    assert lines[0].startswith("medmixers: error: ")
    assert message in lines[0]
    assert len(lines[0]) < 500, "a list of names must be short"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(medmixers):
    out = medmixers("profile", "token_unet", "--size", "8,8,8", "--device", "cuda")
    assert out.status == 2
    assert out.err.splitlines()[-1] == "medmixers: error: device 'cuda' cannot be used here; valid: cpu"


def words_of(command, *words):
    """What the words bind, as the command would get it."""
    call = bind(["x"], list(words), command)
    return inspect.signature(command).bind(*call.args[1], **call.args[2]).arguments


def a_command(out: str, count: int = 1, rate: float = 0.5, on: bool = False, note: str | None = None, **options):
    raise AssertionError("binding runs nothing")


def test_flags_as_they_may_be_written():
    def strict(out: str, in_count: int = 1, flip: bool = True) -> None: ...

    assert words_of(strict, "900") == {"out": "900", "in_count": 1, "flip": True}, "text stays as it was typed"
    for words in (["--out=900", "--noflip"], ["900", "--no-flip"], ["-o", "900", "--flip", "false"]):
        assert words_of(strict, *words) == {"out": "900", "in_count": 1, "flip": False}
    assert words_of(strict, "--flip", "d", "--in-count", "-3") == {"out": "d", "in_count": -3, "flip": True}
    assert words_of(strict, "-in_count", "4", "d")["in_count"] == 4
    assert words_of(strict, "1,2")["out"] == "1,2"
    assert words_of(strict, "--out=a=b")["out"] == "a=b"
    bound = words_of(a_command, "d", "--channels", "4,8", "--mixer", "conv", "--rate", "2", "--residual", "--eps=1e-3")
    assert bound["options"] == {"channels": (4, 8), "mixer": "conv", "residual": True, "eps": 1e-3}
    assert isinstance(bound["rate"], float)
    assert words_of(a_command, "d", "-c", "3")["count"] == 3, "short flags, where free options are taken too"


@pytest.mark.parametrize("options", [["--typo", "1"], ["x", "y"], ["--count", "two"], ["-z", "1"]])
def test_nothing_runs_before_all_words_are_read(options):
    def command(out: str, count: int = 1) -> None:
        raise AssertionError("ran")

    with pytest.raises(InputError):
        bind(["x"], ["d", *options], command)


# errors


def test_a_bug_keeps_its_traceback(medmixers, monkeypatch):
    def bug(self):
        raise TypeError("a bug")

    monkeypatch.setattr(cli.List, "mixers", bug)
    with pytest.raises(TypeError, match="a bug"):
        medmixers("list", "mixers")

    def library(self):
        raise ValueError("a library's own error")

    monkeypatch.setattr(cli.List, "mixers", library)
    with pytest.raises(ValueError, match="a library's own error"):
        medmixers("list", "mixers")


def test_traceback_on_request(medmixers, monkeypatch):
    with pytest.raises(InputError, match="there is no command 'fly'"):
        medmixers("fly", "--traceback")
    assert TRACEBACK_VARIABLE not in os.environ
    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")
    with pytest.raises(InputError, match="there is no command 'fly'"):
        medmixers("fly")


def test_interrupted(medmixers, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.List, "mixers", interrupt)
    out = medmixers("list", "mixers")
    assert (out.status, out.err) == (130, "medmixers: interrupted\n")


def test_terminated_while_a_file_is_written(medmixers, monkeypatch, tmp_path):
    def terminate(self):
        with written_whole(tmp_path / "out.txt") as partial:
            partial.write_text("half")
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(cli.List, "mixers", terminate)
    before = signal.getsignal(signal.SIGTERM)
    out = medmixers("list", "mixers")
    assert (out.status, out.err) == (143, "medmixers: terminated\n")
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_installed_script_and_a_fault_in_a_process():
    out = process("demo", "dat")
    assert out.returncode == 2
    assert (
        out.stderr == "medmixers: error: there is no command 'dat'; valid: data, predict; see: medmixers demo --help\n"
    )
    assert "Traceback" in process("demo", "dat", "--traceback").stderr
    assert process("--help").stdout.startswith("medmixers: token mixers for medical imaging")


def test_a_reader_that_leaves_is_no_error():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write) as closed:
        out = subprocess.run(
            [sys.executable, "-m", "medmixers", "list", "mixers"],
            stdout=closed, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert "rror" not in out.stderr


# what the commands do


def test_profile(medmixers):
    out = medmixers(
        "profile", "metaformer_s12", "--size", "64,64", "--in_channels", 3, "--out_channels", 9,
        "--mixer", "grouped_conv", "--kernel_size", 5, "--repeats", 2,
    )  # fmt: skip
    assert out.status == 0, out.err
    assert "parameters   11.493 M" in out.out
    assert "MACs " in out.out
    assert "median of 2" in out.out
    assert "peak memory" in out.out


def test_list_networks_shows_counts_as_profile_prints_them(medmixers):
    lines = medmixers("list", "networks").out.splitlines()
    assert lines[0].split() == ["NAME", "TASK", "2D", "3D", "SOURCE", "WEIGHTS", "FORMATS", "SUMMARY"]
    name, task, in_2d, in_3d, source, *_ = next(line for line in lines if line.startswith("token_unet ")).split()
    assert (task, source) == ("segmentation", "tshimanga2026")
    for size, millions in (("16,16", in_2d), ("16,16,16", in_3d)):
        words = medmixers("profile", name, "--size", size, "--repeats", 1).out.split()
        assert f"{float(words[words.index('parameters') + 1]):.2f}" == millions
    assert "bound to an image size" in lines[-2]
    names = medmixers("list", "peers").out.split()
    assert {"monai:SwinUNETR", "nnunet:PlainConvUNet"} < set(names)
    assert "timm:convnext_tiny" in medmixers("list", "peers", "timm").out.split()
    assert "unknown library 'keras'; valid: monai, nnunet, timm" in medmixers("list", "peers", "keras").err


def test_profile_to_csv(tmp_path, medmixers):
    file = tmp_path / "costs.csv"
    out = medmixers("profile", "unet_star_star", "--size", "16,16", "--repeats", 1, "--csv", file)
    assert out.status == 0, out.err
    assert out.out.strip() == f"1 network(s): {file}"
    (row,) = csv.DictReader(file.open())
    assert row["name"] == "unet_star_star"
    assert row["error"] == ""


def test_profile_gives_size_to_mixers_that_need_one(medmixers):
    out = medmixers("profile", "metaformer_s12", "--size", "32,32", "--mixer", "random_mixing", "--repeats", 1)
    assert out.status == 0, out.err
    assert "0.009 M frozen" in out.out  # 2 * 64^2 + 2 * 16^2 + 6 * 4^2 + 2 * 1 numbers


def test_profile_gives_size_to_networks_that_need_one_by_name(medmixers):
    out = medmixers("profile", "randformer_s12", "--size", "64,64", "--repeats", 1)
    assert out.status == 0, out.err
    assert "0.002 M frozen" in out.out  # 6 * 16^2 + 2 * 4^2 numbers, in the last two stages


def test_profile_takes_the_options_of_a_network(medmixers):
    out = medmixers("profile", "token_unet", "--size", "8,8,8", "--repeats", 1, "--channels", "4,4,4,8")
    assert out.status == 0, out.err
    assert "token_unet: 1 -> 2 channels at 8 x 8 x 8" in out.out


def test_existing_folder_that_is_not_ours_is_left_alone(tmp_path, medmixers):
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    out = medmixers("demo", "data", tmp_path)
    assert out.status == 2
    assert str(tmp_path) in out.err
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
    assert precious.read_text() == "mine"


def test_nnunet_run_hands_flags_and_status_on():
    command = "nnUNetv2_move_plans_between_datasets"  # it starts in less than a second
    out = process("nnunet", "run", command, "-h")
    assert out.returncode == 0
    assert "Source plans identifier" in out.stdout
    assert process("nnunet", "run", command, "--no_such_flag").returncode == 2


def test_nnunet_env_is_lines_for_a_shell(medmixers):
    lines = medmixers("nnunet", "env", "--cpu").out
    shown = subprocess.run(
        ["bash", "-c", f'eval "{lines}"; ls "$nnUNet_extTrainer"; env'], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "medmixers_trainers.py" in shown
    assert {f"{name}={value}" for name, value in ALLOCATOR_VARIABLES.items()} <= set(shown)
    assert "MALLOC" not in medmixers("nnunet", "env").out


def test_the_package_under_test_is_this_checkout():
    assert os.path.dirname(package_file) in inspect.getfile(cli)
