"""The command ``medmixers``, one file per group of commands."""
