"""The items of one JSON list, however long it is, as `json.load` would give them: one is in memory at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prep.errors import DataError

MAX_ITEM_CHARACTERS = 64 << 20
_CHUNK_CHARACTERS = 1 << 20
_BEHIND = (*",] \t\r\n",)  # an item
_NO_SPACE = re.compile(r"[^ \t\r\n]")


def list_items(path: Path) -> Iterator[Any]:
    """The items in order.

    Raises:
        DataError: the file cannot be read, is not UTF-8, is not JSON or holds something else than a list.
    """
    number = 0
    try:
        with path.open(encoding="utf-8") as file:
            text = _Text(file.read)
            if text.take() != "[":
                raise DataError(f"{path} does not hold a list", "Make it one JSON list: not lines, not an object.")
            is_over = text.peek() == "]" and bool(text.take())
            while not is_over:
                yield text.item()
                number += 1
                mark = text.take()
                if mark not in (",", "]"):
                    raise ValueError("its list has no end" if not mark else f"{mark!r} stands where a comma should")
                is_over = mark == "]"
            if text.peek():
                raise ValueError("something stands behind the list")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "Check the path and its rights.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 after item {number:,}", "Write it anew as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not good JSON after item {number:,}: {error}", "Make it anew.") from error


class _Text:
    """A text that is read a piece at a time, and where in it one is."""

    def __init__(self, read: Callable[[int], str]) -> None:
        self._read, self._text, self._at = read, "", 0
        self._decode = json.JSONDecoder().raw_decode

    def peek(self) -> str:
        """The next character that is no space; empty at the end."""
        while (found := _NO_SPACE.search(self._text, self._at)) is None:
            self._at = len(self._text)
            if not self._read_on():
                return ""
        self._at = found.start()
        return found.group()

    def take(self) -> str:
        """The same, and be behind it."""
        mark = self.peek()
        self._at += len(mark)
        return mark

    def item(self) -> Any:
        """The next value.

        Raises:
            ValueError: it is none, or too long.
        """
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except ValueError:
                if not self._read_on():
                    raise
                continue
            if self._text[end : end + 1] in _BEHIND or not self._read_on():  # a number may go on in the next piece
                self._at = end
                return value

    def _read_on(self) -> bool:
        """Bring more of the text, and let go of what was passed; False at the end, and where an item is too long."""
        rest = self._text[self._at :]
        if len(rest) > MAX_ITEM_CHARACTERS:
            return False
        more = self._read(max(_CHUNK_CHARACTERS, len(rest)))
        if more:
            self._text, self._at = rest + more, 0
        return bool(more)
