"""``medmixers demo``: the data of scripts/demo.sh, and a first prediction without a training."""

from __future__ import annotations

from medmixers.cli.device import usable_device
from medmixers.progress import steps


class Demo:
    """A first prediction without a training, and the simulated subjects of scripts/demo.sh."""

    def predict(self, image: str, out: str, device: str | None = None, runtime: str = "torch") -> str:
        """Segment grey and white matter of a brain MRI with the model that the package carries.

        The model was trained on simulated heads of one anatomy. Research only, not a medical device.

        Args:
            image: NIfTI file, or folder of a DICOM series; with skull or without, of any contrast.
            out: NIfTI file to write; 0 background, 1 grey matter, 2 white matter.
            device: cpu, cuda, cuda:1 or mps; by default a GPU where there is one.
            runtime: torch, or openvino, which is faster on a CPU.

        Example:
            medmixers demo predict head.nii.gz tissues.nii.gz
        """
        with steps("demo predict") as announce:
            from medmixers.demo.predict import predict_brain

            return predict_brain(
                image,
                out,
                device=None if device is None else usable_device(device),
                runtime=runtime,
                announce=announce,
            )

    def data(self, out: str, cases: int = 12, held_out: int = 3, seed: int = 0) -> str:
        """Write the demo's data set in nnU-Net's raw format.

        The subjects are simulated from one real anatomy.

        Args:
            out: folder to write; for nnU-Net it must be nnUNet_raw/Dataset900_BrainTissue.
            cases: number of simulated subjects.
            held_out: number of these subjects that go to imagesTs and labelsTs.
            seed: seed of the simulation.

        Example:
            medmixers demo data demo_run/nnUNet_raw/Dataset900_BrainTissue --cases 12 --held_out 3
        """
        from medmixers.demo.subjects import write_brain_demo

        folder = write_brain_demo(out, cases=cases, held_out=held_out, seed=seed)
        return f"{cases} cases, {held_out} of them held out: {folder}"
