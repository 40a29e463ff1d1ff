"""`prep report`: the page, written where nothing else is."""

from __future__ import annotations

from pathlib import Path

from prep.errors import UsageError
from prep.files import write_text
from prep.report.build import Report
from prep.report.histograms import REPORT_NAME
from prep.report.page import MARK, render
from prep.stages.emission import check_place
from prep.workspace import Workspace

_HEAD_BYTES = 1_000  # of a page, which hold the mark


def report_path(workspace: Workspace, output: Path | None) -> Path:
    """Where a report goes: `output`, or report.html in the workspace.

    Raises:
        UsageError: something is there that no report made, or the workspace keeps something else there.
    """
    path = output or workspace.root / REPORT_NAME
    check_place(workspace, path, "a report", "Name another file with -o.")
    if path.is_dir():
        raise UsageError(f"{path} is a folder", "Name a file with -o.")
    if path.exists():
        with path.open("rb") as file:
            if MARK.encode() not in file.read(_HEAD_BYTES):
                raise UsageError(f"{path} is there, and no report of prep's", "Name another file with -o.")
    return path


def write_report(report: Report, path: Path) -> int:
    """Write the page; its size in bytes."""
    text = render(report)
    write_text(path, text)
    return len(text.encode())
