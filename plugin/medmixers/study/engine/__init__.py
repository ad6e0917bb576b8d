"""The engine of a study: its file, its plan, and the jobs that train, predict and score."""
