"""Studies of hospitals that cannot share data: packs of scores, and the verdict over sites."""
