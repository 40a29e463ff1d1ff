"""Every error a user can meet, as one small tree.

    PrepError               something the user can act on: one message, one next step
    ├── UsageError          an option or argument that cannot be honoured
    ├── ConfigError         a dataset, recipe or prep.yaml that says something impossible (file and line)
    ├── WorkspaceError      the workspace: not one, busy, unwritable, full
    ├── SourceError         a publisher: unreachable, gated, file gone, wrong bytes
    └── DataError           the data: not the format it says, a missing column, nothing left

Anything else that reaches the user is a bug in `prep` and is reported as one.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

_NEXT_STEPS = {
    errno.ENOSPC: "The disk is full. Free some space, then run the same command; what is done stays done.",
    errno.EDQUOT: "The disk quota is used up. Free some space, then run the same command; what is done stays done.",
    errno.EFBIG: "The file is larger than this system allows. Raise the limit, then run the same command.",
    errno.EACCES: "Check the rights of that path, then run the same command.",
    errno.EPERM: "Check the rights of that path, then run the same command.",
    errno.EROFS: "That place is read-only. Work in another folder, or mount it for writing.",
    errno.ENOTDIR: "A file stands where a folder has to be. Move it away, then run the same command.",
    errno.EISDIR: "A folder stands where a file has to be. Move it away, then run the same command.",
    errno.EEXIST: "Something else stands at that path. Move it away, then run the same command.",
    errno.ENAMETOOLONG: "Give a shorter name.",
}


class PrepError(Exception):
    """Something the user can act on.

    Args:
        message: what happened, one line where possible, naming the file, dataset or option.
        next_step: what to do or type next; shown on a line of its own.

    Attributes:
        together: the errors that this one sums up; for most it is alone.
    """

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message, next_step)
        self.message = message
        self.next_step = next_step
        self.together: tuple[PrepError, ...] = (self,)

    def __str__(self) -> str:
        return f"{self.message}\n  {self.next_step}" if self.next_step else self.message


class UsageError(PrepError):
    """An option or argument that cannot be honoured."""


class ConfigError(PrepError):
    """A dataset, recipe or prep.yaml that says something impossible."""


class WorkspaceError(PrepError):
    """A workspace that is not one, is busy, or cannot be written."""

    @classmethod
    def of(cls, error: OSError, what: str = "") -> WorkspaceError:
        """What the system refused, with the next step for its kind.

        Args:
            what: names the thing; by default the file that the system names.
        """
        what = what or str(error.filename or "")
        message = f"{what}: {error.strerror or error}" if what else str(error.strerror or error)
        return cls(message, _NEXT_STEPS.get(error.errno or 0, "Mend that, then run the same command."))


class SourceError(PrepError):
    """A publisher that cannot be reached, refuses, or sends the wrong bytes."""


class DataError(PrepError):
    """Data that is not what its configuration says."""


@dataclass
class Failures:
    """Errors met on the way; one dataset's failure does not stop the others."""

    errors: list[PrepError] = field(default_factory=list)

    def raise_all(self) -> None:
        """Raise what was met as one error; nothing where nothing failed.

        Raises:
            PrepError: of the first error's kind.
        """
        if not self.errors:
            return
        first = self.errors[0]
        told = dict.fromkeys(f"{error.message}\n    {error.next_step}" for error in self.errors)
        if len(told) == 1:
            raise first
        messages = "\n".join(told)
        error = type(first)(messages, "Then run the same command; what is done stays done.")
        error.together = tuple(self.errors)
        raise error


def each(calls: Iterable[Callable[[], T]], failures: Failures) -> Iterator[T]:
    """Call all, yield their results, keep the errors (the system's too) for the end."""
    for call in calls:
        try:
            result = call()
        except PrepError as error:
            failures.errors.append(error)
        except OSError as error:
            failures.errors.append(WorkspaceError.of(error))
        else:
            yield result
