"""What a person reads of a run: terminal, log, metrics.jsonl, W&B, curves, summary."""

from vim_train.report.jsonl import read_metrics
from vim_train.report.report import NullReport, Report, open_report

__all__ = ["NullReport", "Report", "open_report", "read_metrics"]
