"""Build the sdist and the wheel of the committed files, with a README whose links work on a package index.

python scripts/build_package.py                    links and pictures are left out
python scripts/build_package.py --pages ADDRESS    links lead below ADDRESS, the files of this commit on a forge

An index shows the README without the repository, so relative links would be broken there. Needs build and twine.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://)([^)#\s]*)(#[^)\s]*)?\)")


def index_readme(text: str, pages: str | None) -> str:
    """The README for a package index.

    Args:
        text: README.md, with links relative to the root of the repository.
        pages: address of the repository's files; an address with "/blob/" has its pictures at "/raw/". None: links
            become their text, pictures are left out.
    """

    def replaced(link: re.Match[str]) -> str:
        picture, label, path, anchor = link.groups(default="")
        if not path:
            return link[0]  # to a heading of the README
        if pages is None:
            return "" if picture else label
        base = pages.rstrip("/")
        return f"{picture}[{label}]({base.replace('/blob/', '/raw/', 1) if picture else base}/{path}{anchor})"

    return LINK.sub(replaced, text)


def export_commit(folder: Path) -> None:
    """Write the files of HEAD to a folder."""
    archive = folder.with_suffix(".tar")
    subprocess.run(["git", "archive", "--output", str(archive), "HEAD"], cwd=ROOT, check=True)
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", help="address of this commit's files on a forge")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of the built files, default: dist")
    arguments = parser.parse_args()
    if arguments.pages is not None and not arguments.pages.startswith("https://"):
        parser.error(f"--pages must start with https://, got {arguments.pages!r}")
    with tempfile.TemporaryDirectory() as folder:
        source, built = Path(folder) / "source", Path(folder) / "dist"
        export_commit(source)
        readme = source / "README.md"
        readme.write_text(index_readme(readme.read_text(encoding="utf-8"), arguments.pages), encoding="utf-8")
        subprocess.run([sys.executable, "-m", "build", "--outdir", str(built), str(source)], check=True)
        files = sorted(map(str, built.iterdir()))
        subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], check=True)
        arguments.out.mkdir(parents=True, exist_ok=True)
        for file in files:
            print(shutil.copy(file, arguments.out))


if __name__ == "__main__":
    main()
