"""Plain data out of pickles that nobody vouches for, Python 2's among them.

A pickle is a program for a small machine. Here the machine has only the instructions that make dicts, lists, tuples,
text, bytes and numbers; everything that could import or call something is refused.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import struct
from collections.abc import Callable
from typing import Any, NoReturn

from prep.errors import DataError

MAX_STEPS = 20_000_000  # instructions, each worth some 100 bytes of memory; as many refs as RefCOCOg has take 6,200,000

_PLAIN = re.compile(
    "PROTO|FRAME|STOP|MARK|POP|POP_MARK|DUP|MEMOIZE|(BIN|LONG_BIN)?(PUT|GET)"
    "|NONE|NEWTRUE|NEWFALSE|INT|BININT[12]?|LONG[14]?|(BIN)?FLOAT"
    "|STRING|UNICODE|(SHORT_)?BINSTRING|(SHORT_)?BIN(UNICODE|BYTES)8?"
    "|(EMPTY_)?(LIST|TUPLE|DICT)|TUPLE[123]|APPENDS?|SETITEMS?"
)
_GLOBALS = frozenset(("GLOBAL", "STACK_GLOBAL", "INST"))  # they end in find_class, which refuses them by name
_KEYS = {"SETITEM": slice(-2, -1), "SETITEMS": slice(0, None, 2), "DICT": slice(0, None, 2)}  # places on the stack
_DAMAGED = (pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError, AttributeError, struct.error)
_AGAIN = "Delete the file it came in and run `prep download` again."


def load_plain(data: bytes, about: str) -> Any:
    """What a pickle of any protocol holds: dicts with text keys, lists, tuples, text, bytes, numbers, None.

    Python 2's byte strings become text: UTF-8 where they can be that, else Latin-1. What comes back may contain
    itself, or one list many times over: do not walk it without a limit.

    Args:
        about: names the pickle in errors.

    Raises:
        DataError: it asks for anything else, is damaged, or takes more than `MAX_STEPS`.
    """
    try:
        return _Machine(data, about).load()
    except (*_DAMAGED, OverflowError, MemoryError) as error:
        raise DataError(f"{about}: not a whole pickle ({str(error) or type(error).__name__})", _AGAIN) from error


def _refuse(machine: Any, what: str) -> NoReturn:
    raise DataError(f"{machine.about}: refused, {what}; plain data does not", f"Open it with nothing else. {_AGAIN}")


def _step(name: str, perform: Callable[[Any], None]) -> Callable[[Any], None]:
    """An instruction of the machine, counted, its keys looked at before they are hashed."""
    keys = _KEYS.get(name)

    def step(machine: Any) -> None:
        machine.steps += 1
        if machine.steps > MAX_STEPS:
            _refuse(machine, f"its pickle takes more than {MAX_STEPS:,} steps")
        # Nested tuples take exponential time to hash, and numbers can be chosen so that all of them collide.
        if keys is not None and not all(type(key) is str for key in machine.stack[keys]):
            _refuse(machine, "its pickle has a dict with keys that are not text")
        perform(machine)

    def refused(machine: Any) -> None:
        _refuse(machine, f"its pickle has the instruction {name}")

    return step if _PLAIN.fullmatch(name) or name in _GLOBALS else refused


# The unpickler in C cannot lose instructions, and it makes room for as many values as a pickle only says it has.
class _Machine(pickle._Unpickler):
    dispatch = {
        ord(opcode.code): _step(opcode.name, pickle._Unpickler.dispatch[ord(opcode.code)])
        for opcode in pickletools.opcodes
    }

    def __init__(self, data: bytes, about: str) -> None:
        super().__init__(io.BytesIO(data))
        self.about = about
        self.steps = 0

    def find_class(self, module: str, name: str) -> Any:
        _refuse(self, f"its pickle asks to import {f'{module}.{name}'[:80]!r}")

    def _decode_string(self, value: bytes) -> str:
        """Text of a byte string of Python 2."""
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.decode("latin-1")
