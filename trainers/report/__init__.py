"""The report of a run: one self-contained HTML page that opens offline."""

from trainers.report.evaluation import COLUMNS, TEST, Evaluation
from trainers.report.gallery import gallery_rows
from trainers.report.page import write_report
from trainers.report.projection import principal_plane

__all__ = ["COLUMNS", "TEST", "Evaluation", "gallery_rows", "principal_plane", "write_report"]
