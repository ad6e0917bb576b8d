"""Write the committed bundles from the catalog, or check that they are what the catalog says.

python scripts/generate_bundles.py            write them
python scripts/generate_bundles.py --check    change nothing; exit status 1 if any file differs or is stray
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

from medmixers.bundles.catalog import BUNDLES
from medmixers.bundles.render.bundle import render_bundle
from medmixers.files import written_whole

ROOT = Path(__file__).resolve().parent.parent
RUN_FOLDERS = ("data", "eval", "models", "predictions")  # what running a bundle in place leaves in it


def expected_files() -> dict[str, str]:
    """Text of every committed file, by its path below bundles/."""
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    files = {}
    for name, row in BUNDLES.items():
        rendered = render_bundle(row, package_version=version("medmixers"), licence=licence)
        files.update({f"{name}/{path}": text for path, text in rendered.items()})
    return files


def differences(folder: Path, expected: dict[str, str]) -> list[str]:
    """One line for each file below ``folder`` that is missing, differs, or is not the catalog's."""
    found = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not _left_by_a_run(path.relative_to(folder))
    }
    lines = [f"missing: {path}" for path in expected if path not in found]
    lines += [f"stray: {path}" for path in sorted(found - set(expected))]
    for path in sorted(found & set(expected)):
        if (folder / path).read_text(encoding="utf-8") != expected[path]:
            lines.append(f"differs: {path}")
    return lines


def write(folder: Path, expected: dict[str, str]) -> None:
    """Write every file, each whole or not at all. Stray files are left for a person to remove."""
    for path, text in expected.items():
        with written_whole(folder / path) as partial:
            partial.write_text(text, encoding="utf-8")


def _left_by_a_run(path: Path) -> bool:
    return "__pycache__" in path.parts or (len(path.parts) > 1 and path.parts[1] in RUN_FOLDERS)


def main() -> int:
    """Exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    parser.add_argument("--folder", type=Path, default=ROOT / "bundles", help="default: bundles/ of the checkout")
    arguments = parser.parse_args()
    expected = expected_files()
    if not arguments.check:
        write(arguments.folder, expected)
    lines = differences(arguments.folder, expected)
    for line in lines:
        print(line)
    if lines and arguments.check:
        print("run: python scripts/generate_bundles.py")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
