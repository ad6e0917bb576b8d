"""The command ``medmixers``: one file per group of commands, one for reading words, one for help."""
