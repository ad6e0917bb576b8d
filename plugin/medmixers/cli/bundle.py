"""``medmixers bundle``: MONAI Bundles."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from medmixers.cli.commands import Size
from medmixers.errors import InputError


class Bundle:
    """Make, share and check MONAI Bundles."""

    def new(
        self,
        task: str,
        network: str | None = None,
        mixer: str | None = None,
        recipe: str | None = None,
        out: str = ".",
        weights: str | None = None,
        kernel_size: int | None = None,
        stem_stride: int | None = None,
        roi_size: Size | None = None,
        data: str | None = None,
        **options: Any,
    ) -> str:
        """Make a bundle for a task, your own or one of ours: untrained, or of a checkpoint of the authors' code.

        With --data, spacing, patch, batch and updates per epoch follow the data set by nnU-Net's rules.

        Args:
            task: a YAML file that describes your task, or a task of `medmixers list tasks`.
            network: a network of `medmixers list networks` or of another library, such as monai:SwinUNETR
                (`medmixers list peers`); --weights tells it.
            mixer: a token mixer of `medmixers list mixers`, for MetaFormer networks; or one per stage, as a,b,c,d.
            recipe: training recipe, whole or its end such as short; `medmixers list recipes` describes
                keuth2025_segmentation, keuth2025_segmentation_volumes, keuth2025_segmentation_slides,
                keuth2025_segmentation_short, short_run, keuth2025_classification,
                keuth2025_classification_starred, tshimanga2026, tshimanga2026_swin_unetr, xue2026_segmentation,
                xue2026_classification, and for pictures yu2022, yu2023, yu2023_convformer, yu2023_caformer,
                yu2023_convformer_fine_tuning and yu2023_caformer_fine_tuning; by default that of Keuth et al. 2025
                for this kind of task.
            out: folder that will hold the bundle's folder.
            weights: checkpoint of the code of Keuth et al. (Lightning) or of the released Token-UNet.
            kernel_size: kernel of the token mixer; with --weights, of a checkpoint that does not tell it.
            stem_stride: downsampling of a MetaFormer's stem, 4 by default; 2 draws finer structures.
            roi_size: patch in voxels, x,y,z; two values for volumes give a 2D network that sees slices.
            data: training data in nnU-Net's raw format, or with datalist.json, that the bundle is for.
            options: further options of the network, as `medmixers list options NETWORK` lists them.

        Example:
            medmixers bundle new my_task.yaml --network metaformer_segformer_s12 --mixer grouped_conv --out my_bundles
        """
        from medmixers.bundles.new import new_bundle, read_task

        spec, plan = read_task(task), None
        lines: list[str] = []
        if data is not None:
            from medmixers.nnunet.data_plan import plan_data

            plan = plan_data(data, spec)
        made = new_bundle(
            spec, network=network, mixer=mixer, recipe=recipe, out=out, weights=weights, kernel_size=kernel_size,
            stem_stride=stem_stride, roi_size=roi_size, plan=plan, announce=lines.append, **options,
        )  # fmt: skip
        if weights is not None:
            return (
                f"bundle with the weights of {weights}: {made}\n"
                "The checkpoint does not hold how images were preprocessed: compare configs/inference.json with its "
                "training."
            )
        return "\n".join([f"untrained bundle: {made}", *_planned_lines(made, data, lines)])

    def pack(
        self,
        name: str,
        weights: str | None = None,
        out: str = ".",
        metrics: str | None = None,
        exports: bool = True,
    ) -> str:
        """Pack a bundle with its weights and code into OUT/NAME_vX.Y.Z.zip.

        Args:
            name: a bundle of `medmixers list bundles`, or a bundle's folder.
            weights: file of the trained weights; by default models/model.pt of the bundle's folder.
            out: folder of the zip.
            metrics: CSV file of an evaluation, for the model card.
            exports: False leaves TorchScript and ONNX out, for a smaller zip.

        Example:
            medmixers bundle pack my_bundle --weights models/model.pt --metrics eval/metrics.csv
        """
        from medmixers.bundles.share.pack import pack_bundle

        return str(pack_bundle(name, weights=weights, out=out, metrics=metrics, exports=exports))

    def open(self, zip: str, out: str = ".") -> str:
        """Check a bundle's zip and unpack it to OUT/NAME.

        Args:
            zip: file that `medmixers bundle pack` wrote.
            out: folder that will hold the bundle's folder.

        Example:
            medmixers bundle open my_bundle_v0.1.0.zip --out bundles
        """
        from medmixers.bundles.share.archive import open_archive

        return str(open_archive(zip, out))

    def app(self, zip: str, out: str = ".", codes: str | None = None) -> str:
        """Write a MONAI Deploy application around a bundle's zip to OUT/NAME_app: DICOM series in, DICOM SEG out.

        Args:
            zip: file that `medmixers bundle pack` wrote, of a bundle that segments volumes.
            out: folder that will hold the application's folder.
            codes: YAML file with codes of the labels, over those of the bundle.

        Example:
            medmixers bundle app my_bundle_v0.1.0.zip --out apps
        """
        from medmixers.clinic.deploy import write_application

        folder = write_application(zip, out, codes=codes)
        place = shlex.quote(str(folder))
        return "\n".join(
            [
                f"application: {folder}",
                f"run: cd {place} && pip install -r app/requirements.txt && python app -i SERIES -o OUT -m model",
                "package: monai-deploy package app -c app/app.yaml -m model -t TAG --platform x86_64",
            ]
        )

    def verify(self, name: str, static: bool = False, schema: str | None = None) -> str:
        """Run the checks of a bundle on synthetic data.

        All checks take minutes, --static seconds.

        Args:
            name: a bundle of `medmixers list bundles`, a bundle's folder or its zip.
            static: run only the checks that neither train nor predict.
            schema: file of the metadata's JSON schema, where it cannot be downloaded.

        Example:
            medmixers bundle verify brain_tissue_segmentation_pooling --static
        """
        from medmixers.bundles.verify.checks import verify_bundle

        report = verify_bundle(
            name, static=static, schema=schema, announce=lambda line: print(line, file=sys.stderr, flush=True)
        )
        if report.failed:
            print(report)
            raise InputError(f"{report.name}: {len(report.failed)} checks failed")
        return str(report)


def _planned_lines(bundle: Path, data: str | None, lines: list[str]) -> list[str]:
    """What follows the data set, where to change it, and the command that trains."""
    if data is None:
        return []
    train = shlex.join(["--config_file", str(bundle / "configs" / "train.json"), "--dataset_dir", data])
    return [
        f"chosen for {data} by nnU-Net's rules:",
        *(f"  {line}" for line in lines),
        "They are options of configs/train.json; roi_size is one of configs/inference.json too. The spacing is a field "
        "of the task's YAML file, the stem an option of this command: for others, make the bundle again.",
        f"train: python -m monai.bundle run --bundle_root {shlex.quote(str(bundle))} {train}",
    ]
