"""The report of a study: what it answers, from how much, and what is missing."""

from medmixers.study.report.page import Report, write_report

__all__ = ["Report", "write_report"]
