"""Check: what ConvLLaVA's dataset class will do with every row of JSON lists, before a GPU is rented.

Nothing is written, and of a Python module nothing is run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from prep.errors import DataError
from prep.trainers.convllava import read_module
from prep.trainers.convllava_list import ImageChoice, ListReport, check_list, check_names
from prep.trainers.convllava_rows import Version
from prep.trainers.findings import STOPS, Finding, Notes


@dataclass
class ListsReport:
    """What the trainer will do with one JSON list, or with those that a module names.

    Attributes:
        path: the list or the module.
        version: prompt format that training is started with.
        lists: in the module's order.
        findings: of the module first, then list by list.
    """

    path: Path
    version: Version
    lists: list[ListReport] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    files: ClassVar[bool] = True  # the lists are always looked into

    @property
    def errors(self) -> list[Finding]:
        """Findings that stop the run, or may."""
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """Findings of things the trainer does silently."""
        return [finding for finding in self.findings if finding.level == "warning"]

    def as_json(self) -> dict[str, Any]:
        """The report as plain values that JSON holds."""
        return {**asdict(self), "path": str(self.path)}


def check_module(
    path: Path, *, version: Version = "v1", images: ImageChoice = "sample", option: str | None = None
) -> ListsReport:
    """Find out what ConvLLaVA does with the datasets of a Python module such as `prep emit` writes.

    Args:
        images: open the pictures of the first row and 16 others of each list, of all rows, or none.
        option: the text of the trainer's --dataset; by default what the module says.
    """
    report, notes = ListsReport(path, version), Notes()
    try:
        paths, said = read_module(path)
    except DataError as error:
        notes.error(error.message, STOPS, error.next_step)
        report.findings = notes.findings
        return report
    check_names(paths, said if option is None else option, notes)
    report.findings = notes.findings
    for name, (json_path, image_folder) in paths.items():
        of_list, findings = check_list(name, json_path, image_folder, version, images)
        report.lists.append(of_list)
        report.findings += findings
    return report


def check_json(
    path: Path, image_folder: Path | None, *, version: Version = "v1", images: ImageChoice = "sample"
) -> ListsReport:
    """The same of one JSON list; where nobody says where its pictures are, none is looked for."""
    folder = None if image_folder is None else str(image_folder.absolute())
    of_list, findings = check_list(path.name, str(path.absolute()), folder, version, images)
    return ListsReport(path, version, [of_list], findings)
