"""python -m medmixers: the command where its script is not on the path."""

from medmixers.cli.main import main

main()
