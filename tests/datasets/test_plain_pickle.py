from __future__ import annotations

import os
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.datasets import plain_pickle
from prep.datasets.plain_pickle import load_plain
from prep.errors import DataError

AGAIN = "Delete the file it came in and run `prep download` again."
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
PLAIN = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner)
)
GOOD = pickle.dumps([{"a": [1, 2.5, "x"], "b": None}], 0)


class Call:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


class Thing:
    pass


def refusal(data: bytes) -> str:
    with pytest.raises(DataError) as caught:
        load_plain(data, "refs.p")
    warning = "Open it with nothing else. " if "refused" in caught.value.message else ""
    assert caught.value.next_step == warning + AGAIN
    return caught.value.message


@given(PLAIN, st.integers(0, 5))
def test_plain_data_comes_back_from_every_protocol(value: Any, protocol: int) -> None:
    assert load_plain(pickle.dumps(value, protocol), "refs.p") == value


@given(st.binary() | st.builds(lambda data, end: data + end, st.binary(), st.binary().map(lambda b: b + GOOD)))
def test_any_bytes_give_plain_data_or_one_kind_of_error(data: bytes) -> None:
    try:
        value = load_plain(data, "refs.p")
    except DataError:
        return
    assert type(value) in {dict, list, tuple, str, bytes, int, float, bool, type(None)}


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"S'left vase'\np1\n.", "left vase"),
        (b'S"it\'s"\n.', "it's"),
        (rb"S'caf\xc3\xa9'" + b"\n.", "café"),
        (rb"S'caf\xe9 \t\n'" + b"\n.", "café \t\n"),
        (b"T\x05\x00\x00\x00caf\xc3\xa9.", "café"),
        (b"U\x04caf\xe9.", "café"),
        (rb"Vcaf\u00e9" + b"\n.", "café"),
        (b"(lp1\nI1\naI01\naL7L\naF2.5\naNa.", [1, True, 7, 2.5, None]),
        (b"(dp1\nS'a'\np2\nI1\nsS'b'\np3\ng2\ns.", {"a": 1, "b": "a"}),
        (b"(I1\nI2\ntp1\n.", (1, 2)),
        (b"\x80\x03C\x02\xff\xfe.", b"\xff\xfe"),
    ],
)
def test_texts_and_containers_of_python_2(data: bytes, value: object) -> None:
    loaded = load_plain(data, "refs.p")
    assert loaded == value and type(loaded) is type(value)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [Call(os.system, ("true",)), Thing(), {1, 2}, Thing, pickle.loads, [1, {"a": len}]])
def test_imports_are_refused(value: object, protocol: int) -> None:
    assert refusal(pickle.dumps(value, protocol)).startswith("refs.p: refused, its pickle ")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"cposix\nsystem\n(S'true'\ntR.", "asks to import 'posix.system'"),
        (b"(S'true'\nios\nsystem\n.", "asks to import 'os.system'"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "asks to import 'os.system'"),
        (b"c\x1b[31m" + b"x" * 5000 + b"\ny\n.", "asks to import " + repr("\x1b[31m" + "x" * 75)),
        (b"]\x82\x01.", "has the instruction EXT1"),
        (b"Pmember\n.", "has the instruction PERSID"),
        (b"]Q.", "has the instruction BINPERSID"),
        (b"])R.", "has the instruction REDUCE"),
        (b"}}b.", "has the instruction BUILD"),
        (b"(]o.", "has the instruction OBJ"),
        (b"])\x81.", "has the instruction NEWOBJ"),
        (b"\x8f.", "has the instruction EMPTY_SET"),
        (b"\x97.", "has the instruction NEXT_BUFFER"),
        (b"\x96\xff\xff\xff\xff\xff\xff\xff\x00.", "has the instruction BYTEARRAY8"),
    ],
)
def test_instructions_that_plain_data_lacks(data: bytes, what: str) -> None:
    assert refusal(data) == f"refs.p: refused, its pickle {what}; plain data does not"


def test_every_pickle_that_breaks_off_is_refused() -> None:
    for protocol in range(6):
        whole = pickle.dumps([{"a": [1, 2.5, "x", 2**70], "bc": None}, (1,)], protocol)
        for end in range(len(whole)):
            assert refusal(whole[:end]).startswith("refs.p: not a whole pickle (")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"I" + b"9" * 100_000 + b"\n.", id="a number of too many digits"),
        pytest.param(b"\x8d\xff\xff\xff\xff\xff\xff\xff\x3f.", id="a text said to be endless"),
        pytest.param(b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", id="bytes said to be endless"),
        pytest.param(b"\x95\xff\xff\xff\xff\xff\xff\xff\x3f.", id="a frame said to be endless"),
        pytest.param(b"\x8b\xff\xff\xff\xff.", id="a number of negative length"),
        pytest.param(b"S'unquoted\n.", id="a text without its quote"),
        pytest.param(b"g7\n.", id="a place that holds nothing"),
        pytest.param(b"p-1\n.", id="a negative place"),
        pytest.param(b"I1\na.", id="an append to nothing"),
        pytest.param(b"I1\nI2\na.", id="an append to a number"),
        pytest.param(b"]", id="no end"),
        pytest.param(b"\x80\x09.", id="a protocol of the future"),
        pytest.param(b"\xfe.", id="no instruction at all"),
        pytest.param(b"", id="empty"),
    ],
)
def test_damaged_pickles(data: bytes) -> None:
    assert refusal(data).startswith("refs.p: not a whole pickle (")


def test_a_place_far_out_takes_no_memory() -> None:
    assert load_plain(b"]r\xff\xff\xff\xff.", "refs.p") == []
    assert load_plain(b"(lp999999999999\n.", "refs.p") == []


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b")" + b"2\x86" * 60 + b"p1\n0}g1\nNs.", id="nested tuples, by hash 2^60 steps"),
        pytest.param(
            b"}(" + b"".join(b"L%dL\nN" % (n * (2**61 - 1)) for n in range(9)) + b"u.", id="numbers that collide"
        ),
        pytest.param(b"(C\x01aNd.", id="bytes"),
    ],
)
def test_keys_that_are_not_text(data: bytes) -> None:
    assert refusal(data) == "refs.p: refused, its pickle has a dict with keys that are not text; plain data does not"


def test_lists_in_lists_without_end() -> None:
    value, depth = load_plain(b"]" * 100_000 + b"a" * 99_999 + b".", "refs.p"), 0
    while value:
        [value] = value
        depth += 1
    assert depth == 99_999


def test_one_list_many_times_over() -> None:
    value = load_plain(b"]" + b"2\x86" * 60 + b".", "refs.p")  # 2^60 lists to one who would walk it
    assert type(value) is tuple and value[0] is value[1]


def test_steps_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_pickle, "MAX_STEPS", 100)
    assert len(load_plain(b"](" + b"N" * 96 + b"e.", "refs.p")) == 96
    assert refusal(b"](" + b"N" * 97 + b"e.") == (
        "refs.p: refused, its pickle takes more than 100 steps; plain data does not"
    )
