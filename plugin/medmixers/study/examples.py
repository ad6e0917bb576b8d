"""Study files that come with the package: the papers' tables, the demo, the networks in nnU-Net."""

from __future__ import annotations

from pathlib import Path

from medmixers.errors import ExistingFileError
from medmixers.files import written_whole
from medmixers.registry import Registry

FOLDER = Path(__file__).parent / "examples"
EXAMPLES: Registry[Path] = Registry("example")
for _file in sorted(FOLDER.glob("*.yaml")):
    EXAMPLES.register(_file.stem, _file)


def write_example(name: str, out: str | Path | None = None) -> str:
    """The text of an example, or what to do with the file that was written.

    Args:
        name: in :data:`EXAMPLES`.
        out: file to write; None returns the text.

    Raises:
        InputError: an unknown name.
        ExistingFileError: the file exists.
    """
    text = EXAMPLES[name].read_text(encoding="utf-8")
    if out is None:
        return text.rstrip("\n")
    file = Path(out)
    if file.exists():
        raise ExistingFileError(f"{file} exists; give another file")
    with written_whole(file) as partial:
        partial.write_text(text, encoding="utf-8")
    return f"{file}; next: medmixers study plan {file}"
