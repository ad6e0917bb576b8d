"""The fifteen checks of a bundle, as a table. torch and MONAI are imported when they run."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from medmixers.bundles.share.archive import open_archive
from medmixers.bundles.share.carried import vendored_name
from medmixers.bundles.share.pack import copy_bundle, vendor, write_vendored
from medmixers.bundles.share.vendoring import PACKAGE
from medmixers.bundles.verify import run_checks, static_checks
from medmixers.bundles.verify.subject import FailedCheck, SkippedCheck, Subject
from medmixers.errors import MissingFileError
from medmixers.progress import progress


class Check(NamedTuple):
    """One check: its number, its subject, whether it runs nothing of the bundle, and the function."""

    number: int
    title: str
    static: bool
    function: Callable[[Subject], str]


CHECKS = (
    Check(1, "files, licence, paths, README", True, static_checks.check_files),
    Check(2, "metadata", True, static_checks.check_metadata),
    Check(3, "training and inference agree", True, static_checks.check_agreement),
    Check(4, "network's input and output", True, static_checks.check_shapes),
    Check(4, "MONAI's verify_net_in_out", False, run_checks.check_net_in_out),
    Check(5, "MONAI's properties", True, static_checks.check_properties),
    Check(5, "MONAI builds the properties", False, run_checks.check_built_properties),
    Check(6, "train, evaluate, predict", False, run_checks.check_one_epoch),
    Check(7, "two ranks", False, run_checks.check_two_ranks),
    Check(8, "weights", False, run_checks.check_weights),
    Check(9, "TorchScript and ONNX", False, run_checks.check_exports),
    Check(10, "zip without this package", False, run_checks.check_zip),
    Check(11, "consumers' loading orders", False, run_checks.check_consumers),
    Check(12, "two seeded runs", False, run_checks.check_seeds),
    Check(13, "traps of the configs", True, static_checks.check_traps),
    Check(14, "resume and early stop", False, run_checks.check_resume),
    Check(15, "nnU-Net checkpoint", False, run_checks.check_nnunet),
)


@dataclass(frozen=True)
class Result:
    """Outcome of one check: "passed", "failed" or "skipped", seconds, and a note that says what or why."""

    check: Check
    outcome: str
    seconds: float
    note: str


@dataclass(frozen=True)
class Report:
    """Results of one bundle."""

    name: str
    results: Sequence[Result]

    @property
    def failed(self) -> list[Result]:
        """Those that failed."""
        return [result for result in self.results if result.outcome == "failed"]

    def __str__(self) -> str:
        width = max(len(result.check.title) for result in self.results)
        lines = [
            f"{result.check.number:2}  {result.check.title:{width}}  {result.outcome}  {result.seconds:6.1f} s  "
            f"{result.note}".rstrip()
            for result in self.results
        ]
        counts = ", ".join(
            f"{sum(result.outcome == outcome for result in self.results)} {outcome}"
            for outcome in ("passed", "failed", "skipped")
        )
        return "\n".join([self.name, *lines, f"{self.name}: {counts}"])


def verify_bundle(
    name: str | Path,
    *,
    static: bool = False,
    schema: str | Path | None = None,
    announce: Callable[[str], object] = lambda line: None,
) -> Report:
    """Run the checks on a bundle of the catalog, a bundle's folder or its zip, which stays as it is.

    Args:
        name: of the bundle, or its folder or zip.
        static: only the checks that run nothing of the bundle: safe for the zip of a stranger.
        schema: file of the metadata's JSON schema; None: it is downloaded from the URL in the metadata, and not
            checked where ``static``.
        announce: called with a line as each check begins; all of them take minutes.

    Raises:
        FileNotFoundError: no such zip or schema.
        ValueError: an unknown name, or a zip that is refused.
    """
    if schema is not None and not Path(schema).is_file():
        raise MissingFileError(f"there is no schema file {str(schema)!r}")
    with tempfile.TemporaryDirectory() as folder:
        is_zip = str(name).endswith(".zip")
        root = open_archive(name, folder) if is_zip else copy_bundle(name, Path(folder))
        if vendored_name(root) == PACKAGE:  # one of the first zips: this process has the installed package by that name
            write_vendored(root, vendor(root))
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        file = Path(schema).resolve() if schema is not None else None
        subject = Subject(root.resolve(), scratch.resolve(), file, offline=static)
        results = []
        for check in progress([check for check in CHECKS if check.static or not static], "verify"):
            announce(f"{check.number:2}  {check.title} ...")
            results.append(_run(check, subject))
    return Report(root.name, results)


def _run(check: Check, subject: Subject) -> Result:
    start = time.perf_counter()
    logging.disable(logging.WARNING)  # MONAI logs the whole configuration
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            note, outcome = check.function(subject), "passed"
    except SkippedCheck as reason:
        note, outcome = str(reason), "skipped"
    except (Exception, SystemExit) as error:  # a bundle may raise anything: the table says it
        lines = str(error).strip().splitlines() or [""]
        note, outcome = lines[0] if isinstance(error, FailedCheck) else f"{type(error).__name__}: {lines[0]}", "failed"
    finally:
        logging.disable(logging.NOTSET)
    return Result(check, outcome, time.perf_counter() - start, note)
