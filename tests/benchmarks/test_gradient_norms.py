"""Gradient norms: equal for every way to compute local attention, counted where not finite, shown with a note."""

import math

import gradient_norms as script
import peers
import pytest
import stability
import torch
from torch.nn import functional as F

from medmixers.results.tables import TABLES, gradient_norms_table


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """10x13 tokens: borders all around, and no multiple of a tile."""
    monkeypatch.setattr(stability, "IMAGE", (40, 52))


def test_backends_agree_from_step_to_step():
    reference, tiles = (stability.train(name, "float32", device="cpu", steps=6) for name in ("unfold", "tiles"))
    assert tiles.norms == pytest.approx(reference.norms, rel=1e-4)
    assert tiles.losses == pytest.approx(reference.losses, rel=1e-4)
    assert len(set(tiles.norms)) == 6
    half = stability.train("tiles", "bfloat16", device="cpu", steps=6)
    assert half.norms == pytest.approx(reference.norms, rel=0.05)
    assert half.norms != pytest.approx(reference.norms, rel=1e-5), "autocast was off"


def test_the_reference_is_not_ours_in_disguise(monkeypatch):
    """A reference that sees less of the image has other norms: the agreement above could fail."""
    narrow = {"unfold": lambda q, k, v, kernel_size: peers.unfold_attention(q, k, v, kernel_size - 2)}
    tiles = stability.train("tiles", "float32", device="cpu", steps=1)
    monkeypatch.setattr(stability, "PEERS", narrow)
    other = stability.train("unfold", "float32", device="cpu", steps=1)
    assert other.norms != pytest.approx(tiles.norms, rel=1e-3)


def test_first_norm_is_that_of_all_gradients():
    network = stability.build("tiles")
    images, classes = next(stability.batches(1))
    loss = F.cross_entropy(network(images), classes)
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    expected = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))
    training = stability.train("tiles", "float32", device="cpu", steps=1)
    assert training.norms == pytest.approx([expected], rel=1e-5)
    assert training.losses == pytest.approx([loss.item()], rel=1e-5)


def test_gratings_have_the_direction_of_their_class(monkeypatch):
    """Where the spectrum of an image without noise is largest."""
    monkeypatch.setattr(stability, "NOISE", 0.0)
    classes = set()
    for images, numbers in stability.batches(20):
        for image, number in zip(images[:, 0], numbers.tolist(), strict=True):
            spectrum = torch.fft.rfft2(image, s=(256, 256)).abs()
            row, column = divmod(int(spectrum.argmax()), spectrum.shape[1])
            angle = math.atan2((row + 128) % 256 - 128, column)
            difference = (angle - number * math.pi / stability.CLASSES) % math.pi
            assert min(difference, math.pi - difference) < 0.1
            classes.add(number)
    assert classes == set(range(stability.CLASSES))


def test_a_training_that_explodes_is_counted_and_fails_the_script(monkeypatch, capsys):
    monkeypatch.setattr(stability, "LEARNING_RATE", 1e30)
    monkeypatch.setattr("sys.argv", ["gradient_norms.py", "--steps", "3"])
    assert script.main() == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| cpu | tiles | float32 |"))
    first, *_, not_finite, _, last_loss = [cell.strip() for cell in line.strip("|").split("|")[3:]]
    assert float(first) > 0
    assert not_finite == "2", "all but the first step"
    assert last_loss == "not finite"


def test_a_peer_that_cannot_run_has_its_error_and_ours_raises(monkeypatch):
    def refuse(*_):
        raise RuntimeError("no kernel\nand more")

    monkeypatch.setattr(stability, "build", refuse)
    row = stability.train("unfold", "float32", device="cpu", steps=1).summary()
    assert row == {"backend": "unfold", "precision": "float32", "error": "no kernel"}
    table = gradient_norms_table({"cpu": [row]})
    assert table.splitlines()[-1] == "| cpu | unfold | float32 | not run: no kernel |"
    with pytest.raises(RuntimeError, match="no kernel"):
        stability.train("tiles", "float32", device="cpu", steps=1)


def test_which_backends_train_where():
    assert stability.backends("cpu") == ["unfold", "tiles"]
    assert stability.backends("cuda") == ["unfold", "tiles", "flex", "FlexAttention"]


def test_every_device_is_shown_with_its_note():
    figures = {"rows": [{"backend": "tiles", "precision": "float32", "error": "none"}]}
    run = {"date": "2026-01-31", "commit": "0123456789", "processor": "P", "cores": 2, "versions": {"torch": "2.8"}}
    sections = {f"gradient norms {key}": {**run, "device": key.upper(), "figures": figures} for key in ("cpu", "cuda")}
    shown = TABLES["gradient norms"]({**sections, "demo": {}}, {})
    assert "| cuda | tiles | float32 | not run: none |\n\nMeasured 2026-01-31 at commit 0123456; P, 2 cores," in shown
    assert shown.endswith("device CUDA; torch 2.8.")
    assert TABLES["gradient norms"]({"demo": {}}, {}) == "Not measured yet."


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--record", "--steps", "20"], "--record is for 200 steps, got 20"),
        (["--steps", "0"], "--steps must be at least 1, got 0"),
        (["--device", "gpu"], "invalid choice: 'gpu'"),
    ],
)
def test_script_refuses_in_one_line(words, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gradient_norms.py", *words])
    with pytest.raises(SystemExit, match="2"):
        script.main()
    assert message in capsys.readouterr().err.splitlines()[-1]
