"""The report of a study: what it answers, from how much, and what is missing."""
