"""The report of a run: one self-contained HTML page that opens offline."""

from trainers.report.components import shown_rows
from trainers.report.evaluation import Evaluation
from trainers.report.gallery import gallery_rows
from trainers.report.page import write_report
from trainers.report.projection import principal_plane
from trainers.report.reasons import reason_rows

__all__ = [
    "Evaluation",
    "gallery_rows",
    "principal_plane",
    "reason_rows",
    "shown_rows",
    "write_report",
]
