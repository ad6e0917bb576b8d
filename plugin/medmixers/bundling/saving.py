"""The saver of the best weights. torch and MONAI are imported when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def best_weights_saver(*, save_dir: str, save_dict: Mapping[str, Any]) -> Any:
    """MONAI's CheckpointSaver of the best key metric as model.pt, whose record goes into the state of a training.

    So a resumed training keeps the best weights of before. MONAI's own reads such a record back, from a checkpoint
    that holds the weights too and is no flat state dict any more; it has no ``state_dict``.

    Args:
        save_dir: folder of model.pt.
        save_dict: {"model": network}.
    """
    from monai.handlers import CheckpointSaver

    filename = "model.pt"

    class BestWeightsSaver(CheckpointSaver):
        def state_dict(self) -> dict[str, Any]:
            record = self._key_metric_checkpoint.state_dict()
            return {**record, "_saved": [(float(score), name) for score, name in record["_saved"]]}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            if (Path(save_dir) / filename).is_file():  # or, in another folder, a worse one would be better than none
                super().load_state_dict(state_dict)

    return BestWeightsSaver(save_dir, save_dict, save_key_metric=True, key_metric_filename=filename)
