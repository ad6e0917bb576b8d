"""The course of a script whose figures are one section of results/measured.json."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from medmixers.errors import InputError
from medmixers.results import check_committed, check_recordable, describe_run, documents, record

ROOT = Path(__file__).resolve().parents[2]


def measure_and_print(
    section: str,
    measure: Callable[[], Any],
    table: Callable[[Any], str],
    *,
    is_recorded: bool,
    packages: Iterable[str] = (),
) -> None:
    """Measure on the CPU and print the table; if it is recorded, write the figures and the documents' tables.

    Args:
        section: of measured.json, without the device.
        measure: gives the figures, as JSON.
        table: of the figures.
        is_recorded: whether the figures are kept.
        packages: whose versions are recorded in addition.

    Raises:
        InputError: is_recorded, and the checkout has changes or the machine is busy.
    """
    run = describe_run(section, device="cpu", checkout=ROOT)
    if is_recorded:
        check_recordable(run)
    documents.render(ROOT)  # wrong markers must show before the minutes of measuring
    figures = measure()
    print(table(figures))
    if is_recorded:
        run["versions"] |= versions(packages)
        record(f"{section} cpu", figures, run=run)
        documents.write(ROOT)


def score_and_print(
    section: str, measure: Callable[[], Any], table: Callable[[dict[str, Any]], str], *, is_recorded: bool
) -> None:
    """As :func:`measure_and_print`, for scores: other work on the machine does not change them.

    Args:
        section: of measured.json.
        measure: gives the figures, as JSON.
        table: of the section, the figures with the run.
        is_recorded: whether the figures are kept.

    Raises:
        InputError: is_recorded, and the checkout has changes.
    """
    run = describe_run(section, device="cpu", checkout=ROOT)
    if is_recorded:
        check_committed(run)
    documents.render(ROOT)  # wrong markers must show before the minutes of measuring
    figures = measure()
    print(table({**run, "figures": figures}))
    if is_recorded:
        record(section, figures, run=run)
        documents.write(ROOT)


def device_name(device: str) -> str:
    """The GPU's name, or "cpu".

    Args:
        device: as torch names it. InputError for a GPU that torch does not find.
    """
    if torch.device(device).type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise InputError(f"--device {device}: torch finds no GPU")
    return torch.cuda.get_device_name(device)


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
