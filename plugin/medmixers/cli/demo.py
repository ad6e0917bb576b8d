"""``medmixers demo``: the data of scripts/demo.sh."""

from __future__ import annotations


class Demo:
    """Simulate the demo's subjects."""

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
