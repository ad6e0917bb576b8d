"""What writes weights, volumes and masks. torch and MONAI are imported when it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medmixers.datasets.raw_format import NIFTI
from medmixers.files import written_whole


def best_weights_saver(*, save_dir: str, save_dict: Mapping[str, Any]) -> Any:
    """MONAI's CheckpointSaver of the best key metric as model.pt, whose record goes into the state of a training.

    So a resumed training keeps the best weights of before. MONAI's own reads such a record back, from a checkpoint
    that holds the weights too and is no flat state dict any more; it has no ``state_dict``.

    Args:
        save_dir: folder of model.pt.
        save_dict: {"model": network}.
    """
    from monai.handlers import CheckpointSaver

    from medmixers.bundle_runtime.checkpoint_files import WholeFiles

    filename = "model.pt"

    class BestWeightsSaver(CheckpointSaver):
        def state_dict(self) -> dict[str, Any]:
            record = self._key_metric_checkpoint.state_dict()
            return {**record, "_saved": [(float(score), name) for score, name in record["_saved"]]}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            if (Path(save_dir) / filename).is_file():  # or, in another folder, a worse one would be better than none
                super().load_state_dict(state_dict)

    saver = BestWeightsSaver(save_dir, save_dict, save_key_metric=True, key_metric_filename=filename)
    saver._key_metric_checkpoint.save_handler = WholeFiles(save_dir, filename)
    return saver


def say_best_weights(*, folder: str) -> None:
    """Print the file of the best weights of a training, or that there is none."""
    file = Path(folder) / "model.pt"
    print(f"best weights: {file}" if file.is_file() else f"no weights were saved in {folder}: nothing was validated")


def label_writer(*, output_ext: str) -> Any:
    """The class with which MONAI's SaveImage writes predictions: MONAI's own for the ending, whole or not at all.

    MONAI's own drops the channel, and of an image with several channels then takes (X, Y, Z) for (C, X, Y): the affine
    of these is singular where a volume is stored sagittal or coronal. This class says that there is no channel.

    NIfTI: MONAI's own drops the channel with all last axes of length 1, so of a single slice the third axis too, and
    fails. This one keeps it.

    Args:
        output_ext: ".nii.gz", ".nii", ".png", or another that MONAI knows.
    """
    from monai.data import ImageWriter, MetaTensor, NibabelWriter, resolve_writer
    from monai.utils import MetaKeys

    is_nifti = output_ext.lower() in NIFTI
    base: Any = NibabelWriter if is_nifti else resolve_writer(output_ext)[0]

    class WholeWriter(base):
        def set_data_array(self, data_array: Any, channel_dim: int | None = 0, **kwargs: Any) -> None:
            if isinstance(data_array, MetaTensor):
                meta = {**data_array.meta, MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan")}
                data_array = MetaTensor(data_array.as_tensor(), meta=meta)
            super().set_data_array(data_array, channel_dim, **kwargs)

        def write(self, filename: Any, verbose: bool = False, **kwargs: Any) -> None:
            ImageWriter.write(self, filename, verbose=verbose)  # the log names the file itself
            with written_whole(Path(filename)) as partial:
                super().write(str(partial), verbose=False, **kwargs)

    class VolumeWriter(WholeWriter):
        data_obj: Any

        def set_data_array(self, data_array: Any, channel_dim: int | None = 0, **kwargs: Any) -> None:
            super().set_data_array(data_array, channel_dim, **{**kwargs, "squeeze_end_dims": False})
            self.data_obj, self.channel_dim = self.data_obj.reshape(self.data_obj.shape[:3]), None

    return VolumeWriter if is_nifti else WholeWriter


def mask_saver(
    *,
    keys: str,
    label_names: Sequence[str],
    volumes: bool,
    output_dir: str,
    output_ext: str,
    output_dtype: Any,
    separate_folder: bool,
    output_name_formatter: Callable[..., Any],
) -> Any:
    """A transform that writes each channel of a prediction as a file of its own, CASE_LABEL.

    Args:
        keys: key of the prediction, (K, *spatial) of 0 and 1.
        label_names: names of the K channels.
        volumes: write 0 and 1 in the file's geometry; else pictures of 0 and 255, as those of the data sets.
        output_dir: as MONAI's ``SaveImaged`` has it, and so are the arguments that follow.
    """
    from monai.transforms import Compose, SaveImaged, SplitDimd

    options = {
        "output_dir": output_dir,
        "output_ext": output_ext,
        "output_dtype": output_dtype,
        "separate_folder": separate_folder,
        "output_name_formatter": output_name_formatter,
        "writer": label_writer(output_ext=output_ext),
        **({} if volumes else {"scale": 255}),
    }
    savers = [SaveImaged(keys=f"{keys}_{name}", output_postfix=name, **options) for name in label_names]
    return Compose([SplitDimd(keys=keys, output_postfixes=label_names), *savers])
