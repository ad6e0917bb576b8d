"""Prediction of many cases: a part of them, without those that are done, on after a bad one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.data import SequentialSampler

from medmixers.bundle_runtime.loading import input_error
from medmixers.bundle_runtime.prediction_record import PredictionRecord, input_states, setup_digest
from medmixers.bundle_runtime.preflight_files import paths
from medmixers.bundle_runtime.stack import calling, one_line_in_command
from medmixers.errors import FaultsError, InputError, joined_lines
from medmixers.files import written_files

if TYPE_CHECKING:
    from medmixers.bundle_runtime.image_reader import BundleImageReader
    from medmixers.bundle_runtime.nnunet_images import NnUNetImages

PART = re.compile(r"(\d+)/(\d+)")


class Cases:
    """The cases of a prediction. Without an option they are all images, and the first bad one ends the run.

    Args:
        images: paths, or lists of the channels' paths.
        output_dir: of the predictions.
        image_reader: finds faults of a case.
        ckpt_path: file of the weights.
        load_pretrain: False predicts with random weights.
        part: "3/8" takes the third of eight parts: cases 3, 11, 19 ... Array jobs share a folder so.
        continue_prediction: leave out the cases that the record in ``output_dir`` proves done.
        keep_going: go on after a case that cannot be read or predicted; the end names it.

    Raises:
        InputError: ``part`` is not of that form, or random weights would be continued.
    """

    def __init__(
        self,
        *,
        images: Sequence[Any],
        output_dir: str,
        image_reader: BundleImageReader | NnUNetImages,
        ckpt_path: str,
        load_pretrain: bool = True,
        part: str | None = None,
        continue_prediction: bool = False,
        keep_going: bool = False,
    ) -> None:
        self.all, self.image_reader = list(images), image_reader
        self.output_dir, self.ckpt_path = Path(output_dir), Path(ckpt_path)
        self.load_pretrain, self.continue_prediction, self.keep_going = load_pretrain, continue_prediction, keep_going
        self.part = part
        if continue_prediction and not load_pretrain:
            raise InputError("--continue_prediction needs trained weights: random ones differ in each start")
        self.chosen = _part_of(self.all, part)
        parser = calling("ConfigParser")
        self.config = dict(parser.config) if parser is not None else None
        self.is_recorded = False
        self.failed: dict[str, str] = {}

    @cached_property
    def images(self) -> list[Any]:
        """Those to predict."""
        if not self.continue_prediction or self.record is None:
            return self.chosen
        done = self.record.done(self._inputs[id(entry)] for entry in self.chosen)
        return [entry for entry, is_done in zip(self.chosen, done, strict=True) if not is_done]

    @cached_property
    def record(self) -> PredictionRecord | None:
        """What is done; None where nothing can be known of it: random weights, or no bundle's config."""
        if not self.load_pretrain or self.config is None:
            return None
        return PredictionRecord(self.output_dir, setup_digest(self.config, self.ckpt_path))

    @cached_property
    def _inputs(self) -> dict[int, dict[str, list[int]]]:
        """State of the files of each chosen case, taken before any of them is read."""
        return {id(entry): input_states(paths(entry)) for entry in self.chosen}

    def table(self, name: str) -> str:
        """Path of a table of all cases; each part has its own."""
        stem, _, ending = name.rpartition(".")
        number = "" if self.part is None else "_" + self.part.replace("/", "_of_")
        return str(self.output_dir / f"{stem}{number}.{ending}")

    @one_line_in_command()
    def run(self, evaluator: Any) -> None:
        """Predict; the last step of the config's ``run``.

        Raises:
            FaultsError: a case failed with ``keep_going``; a line names each.
        """
        record = self.record
        is_own_list = self._are_those_of(evaluator.data_loader)
        if not is_own_list:
            if self.part or self.continue_prediction or self.keep_going:
                raise InputError(
                    "--part, --continue_prediction and --keep_going take the images of --dataset_dir or --datalist one "
                    "by one: set neither dataset#data nor the options of the dataloader with them"
                )
            record = None
        self.is_recorded = record is not None and bool(self._inputs)
        if self.images or not is_own_list:
            evaluator.run()
        if self.part or self.continue_prediction:
            done = len(self.chosen) - len(self.images)
            print(f"{len(self.images) - len(self.failed)} cases predicted, {done} were done before", flush=True)
        if self.failed:
            raise FaultsError(self._failures())
        if record is not None and not self.continue_prediction:
            record.delete()  # nothing is left to continue

    def predict_case(self, engine: Any, batch: Any) -> Any:
        """One iteration of MONAI's evaluator, which calls this.

        Args:
            engine: the evaluator.
            batch: of one case, or the exception that loading it raised.
        """
        if not (self.is_recorded or self.keep_going):
            return engine._iteration(engine, batch)
        entry = self.images[engine.state.iteration - 1]
        try:
            if isinstance(batch, Exception):
                raise batch
            if self.keep_going:  # otherwise the preflight has found it sound
                self.image_reader.check_case(paths(entry))
            with written_files() as outputs:
                output = engine._iteration(engine, batch)
        except Exception as error:
            if not self.keep_going:
                raise
            return self._failure(engine, entry, error)
        if self.is_recorded and self.record is not None:
            self.record.add(self._inputs[id(entry)], outputs)
        return output

    def _are_those_of(self, loader: Any) -> bool:
        """Whether a loader gives these images one by one, in this order."""
        data = getattr(loader.dataset, "data", None) or []
        is_in_order = loader.batch_size == 1 and isinstance(loader.sampler, SequentialSampler)
        return is_in_order and [next(iter(item.values())) for item in data] == self.images

    def _failure(self, engine: Any, entry: Any, error: Exception) -> dict[str, list[Any]]:
        self.failed[str(paths(entry)[0])] = joined_lines(input_error(error) or error)
        if len(self.failed) == len(self.images):
            engine.terminate()  # a table of no case cannot be written
        engine.state.batch = []
        return {"pred": []}  # handlers that collect predictions get none

    def _failures(self) -> str:
        """A line for each case."""
        lines = [f"{file}: {reason}" if str(file) not in reason else reason for file, reason in self.failed.items()]
        where = f"a file of theirs in {self.output_dir} is incomplete or older"
        head = f"{len(lines)} of {len(self.images)} cases failed; {where}:"
        return "\n".join([head, *lines])


def _part_of(images: Sequence[Any], part: str | None) -> list[Any]:
    """Number K of N parts of a list, by "K/N"."""
    if part is None:
        return list(images)
    found = PART.fullmatch(str(part))
    number, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= count:
        raise InputError(f"--part must be K/N with K from 1 to N, 3/8 for example; got {part!r}")
    return list(images)[number - 1 :: count]
