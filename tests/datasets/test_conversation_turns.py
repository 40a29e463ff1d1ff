from __future__ import annotations

import json
import time
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from duckdb.func import FunctionNullHandling, PythonUDFType
from hypothesis import given
from hypothesis import strategies as st

from prep.datasets.turns import IMAGE, REASONS, normal_turns, turns_column

Said = tuple[Any, Any]
NOTHING = pa.array([], pa.string())


def turns(*said: Said) -> list[dict[str, Any]]:
    return [{"from": role, "value": value} for role, value in said]


def human_gpt(*values: Any) -> list[dict[str, Any]]:
    return turns(*((("human", "gpt")[n % 2], value) for n, value in enumerate(values)))


# --- The matrix, row by row -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("published", "images", "normal"),
    [
        pytest.param(human_gpt("Hi", "Ho"), 0, ["Hi", "Ho"], id="text alone"),
        pytest.param(human_gpt("<image>\nQ", "A"), 1, ["<image>\nQ", "A"], id="one image"),
        pytest.param(human_gpt("<image>Q", " A\n"), 1, ["<image>Q", " A\n"], id="what is right stays to the letter"),
        pytest.param(human_gpt("Q\n<image>", "A"), 1, ["<image>\nQ", "A"], id="the token last"),
        pytest.param(human_gpt("See <image> here", "A"), 1, ["<image>\nSee  here", "A"], id="the token in the middle"),
        pytest.param(human_gpt("\n<image>\nQ", "A"), 1, ["<image>\nQ", "A"], id="the token behind white space"),
        pytest.param(human_gpt("Q", "A"), 1, ["<image>\nQ", "A"], id="no token"),
        pytest.param(human_gpt("Q", "A"), 2, ["<image>\n<image>\nQ", "A"], id="no token for two images"),
        pytest.param(human_gpt("<image>", "A"), 1, ["<image>", "A"], id="a question of the token alone"),
        pytest.param(human_gpt("<image><image>\nQ", "A"), 1, ["<image>\nQ", "A"], id="two tokens for one image"),
        pytest.param(
            human_gpt("<image>\nQ", "A", "R <image>", "B"), 1, ["<image>\nQ", "A", "R", "B"], id="one in each turn"
        ),
        pytest.param(
            human_gpt("Hi", "Ho", "Q <image>", "A"), 1, ["<image>\nHi", "Ho", "Q", "A"], id="the token in a later turn"
        ),
        pytest.param(
            human_gpt("Hi", "Ho", "<image>\nQ", "A"), 1, ["<image>\nHi", "Ho", "Q", "A"], id="first in a later turn"
        ),
        pytest.param(
            human_gpt("<image> against <image>", "A"), 2, ["<image> against <image>", "A"], id="two in one turn"
        ),
        pytest.param(
            human_gpt("<image>\nQ", "A", "And this: <image>", "B"),
            2,
            ["<image>\nQ", "A", "<image>\nAnd this:", "B"],
            id="two in two turns",
        ),
        pytest.param(
            [*turns(("gpt", "Hello")), *turns(("gpt", "")), *human_gpt("Q", "A")], 0, ["Q", "A"], id="gpt first"
        ),
        pytest.param([*turns(("system", "Be kind <image>")), *human_gpt("Q", "A")], 0, ["Q", "A"], id="system first"),
        pytest.param([*human_gpt("Q", "A"), *turns(("human", None))], 0, ["Q", "A"], id="a question at the end"),
        pytest.param(human_gpt(*"QARBSC"), 0, [*"QARBSC"], id="six turns"),
        pytest.param(turns(("user", "Q"), ("assistant", "A")), 0, ["Q", "A"], id="user and assistant"),
        pytest.param(turns((" USER", "Q"), ("Assistant", "A")), 0, ["Q", "A"], id="capitals"),
        pytest.param(
            [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], 0, ["Q", "A"], id="role, content"
        ),
        pytest.param(
            [turn | {"model": "", "weight": 1} for turn in human_gpt("Q", "A")], 0, ["Q", "A"], id="extra keys"
        ),
        pytest.param(json.dumps(human_gpt("Q", "é")), 0, ["Q", "é"], id="JSON text"),
        pytest.param(json.dumps(json.dumps(human_gpt("Q", "A"))), 0, ["Q", "A"], id="JSON text of JSON text"),
    ],
)
def test_usable(published: object, images: int, normal: list[str]) -> None:
    assert normal_turns(published, images) == (human_gpt(*normal), None)


@pytest.mark.parametrize(
    ("published", "images", "reason"),
    [
        pytest.param(None, 0, "no_conversations", id="nothing"),
        pytest.param("null", 0, "no_conversations", id="JSON text of nothing"),
        pytest.param("Q: hello?", 0, "bad_conversation", id="text that is no JSON"),
        pytest.param("[" * 100_000, 0, "bad_conversation", id="JSON without end"),
        pytest.param('"' + "9" * 5000 + '"', 0, "bad_conversation", id="a number too long to read"),
        pytest.param({"from": "human", "value": "Q"}, 0, "bad_conversation", id="a turn and no list"),
        pytest.param(["Q", "A"], 0, "bad_conversation", id="turns of text"),
        pytest.param(turns(("human", "Q"), ("narrator", "A")), 0, "bad_conversation", id="a role nobody knows"),
        pytest.param(turns(("human", "Q"), (3, "A")), 0, "bad_conversation", id="a role that is a number"),
        pytest.param(turns(("human", "Q"), ("gpt", None)), 0, "bad_conversation", id="null for an answer"),
        pytest.param(turns(("human", ["Q"]), ("gpt", "A")), 0, "bad_conversation", id="a list for a question"),
        pytest.param(turns(("human", "Q"), ("gpt", 12)), 0, "bad_conversation", id="a number for an answer"),
        pytest.param(human_gpt("Q", "\ud83d"), 0, "bad_conversation", id="half a character"),
        pytest.param([{"from": "human"}, {"from": "gpt"}], 0, "bad_conversation", id="turns without text"),
        pytest.param([], 0, "few_turns", id="no turns"),
        pytest.param(human_gpt("Q"), 0, "few_turns", id="a question alone"),
        pytest.param(turns(("gpt", "A")), 0, "few_turns", id="an answer alone"),
        pytest.param(turns(("gpt", "A"), ("human", "Q")), 0, "few_turns", id="an answer before its question"),
        pytest.param(turns(("human", "Q"), ("human", "R"), ("gpt", "A")), 0, "turn_order", id="two questions"),
        pytest.param(turns(("human", "Q"), ("gpt", "A"), ("gpt", "B")), 0, "turn_order", id="two answers"),
        pytest.param(
            [*human_gpt("Q", "A"), *turns(("system", "S")), *human_gpt("R", "B")], 0, "turn_order", id="system later"
        ),
        pytest.param(human_gpt("Q", ""), 0, "empty_turn", id="an empty answer"),
        pytest.param(human_gpt(" \n", "A"), 0, "empty_turn", id="a blank question"),
        pytest.param(human_gpt("", "A"), 1, "empty_turn", id="an empty question about an image"),
        pytest.param(human_gpt("Hi", "Ho", "<image>", "A"), 1, "empty_turn", id="a later question of the token alone"),
        pytest.param(human_gpt("<image>\nQ", "A"), 0, "image_tokens", id="the token in text alone"),
        pytest.param(human_gpt("<image>\nQ", "A", "<image>", "B"), 1, "empty_turn", id="the second token alone"),
        pytest.param(human_gpt("<image>\nQ", "A"), 3, "image_tokens", id="one token for three images"),
        pytest.param(human_gpt("Q", "A", "<image><image>R", "B"), 2, "image_tokens", id="two, none in the first"),
        pytest.param(human_gpt("Q <im<image>age>", "A"), 1, "image_tokens", id="a token around a token"),
        pytest.param(human_gpt("Q", "See <image>"), 1, "image_in_answer", id="the token in an answer"),
    ],
)
def test_unusable(published: object, images: int, reason: str) -> None:
    assert normal_turns(published, images) == (None, reason)


def test_a_long_answer_is_not_asked_to_be_long() -> None:
    long = human_gpt("<image>\nQ", " ".join(["word"] * 151))
    assert normal_turns(long, 1) == (long, None)


# --- Whatever goes in -------------------------------------------------------------------------------------------


def loaded_by_lavida_o(kept: list[dict[str, str]], images: int) -> list[dict[str, str]]:
    """The turns as LaViDa-O would see them; fails where its loader fails."""
    if kept[0]["from"] != "human":
        kept = kept[1:]
    assert kept[1]["from"] == "gpt"
    values = [turn["value"] for turn in kept]
    if images and IMAGE not in values[0]:
        values[0] = f"{IMAGE}\n{values[0]}"
    values = [
        f"{IMAGE}\n{value.replace(IMAGE, '').strip()}" if value.count(IMAGE) == 1 and value[:7] != IMAGE else value
        for value in values
    ]
    assert sum(value.count(IMAGE) for value in values) == images
    return [{"from": turn["from"], "value": value} for turn, value in zip(kept, values, strict=True)]


def check_convllava(kept: list[dict[str, str]], images: int) -> None:
    """Fails where ConvLLaVA's loader fails or ignores the row; it has one image at most."""
    assert [turn["from"] for turn in kept] == ["human", "gpt"] * (len(kept) // 2)
    assert kept[-1]["value"].split()
    assert [IMAGE in turn["value"] for turn in kept] == [bool(images)] + [False] * (len(kept) - 1)


VALUES = st.one_of(
    st.lists(st.sampled_from(["Q", IMAGE, " ", "\n", "<im", "age>", "é", "\0"]), max_size=5).map("".join),
    st.text(max_size=5),
    st.sampled_from([None, 3, ["Q"]]),
)
ROLES = st.sampled_from(["human", "gpt", "human", "gpt", "user", "Assistant", "system", "narrator", None])
ANY_TURNS = st.lists(st.builds(lambda role, value: {"from": role, "value": value}, ROLES, VALUES), max_size=6)
DIALOGUES = st.lists(VALUES.filter(lambda value: isinstance(value, str)), max_size=6).map(lambda said: human_gpt(*said))


@given(st.one_of(ANY_TURNS, DIALOGUES), st.integers(0, 3))
def test_what_comes_out_is_what_both_loaders_take(published: list[dict[str, Any]], images: int) -> None:
    kept, reason = normal_turns(published, images)
    if kept is None:
        assert reason in REASONS
        return
    assert len(kept) >= 2
    assert all(turn.keys() == {"from", "value"} and turn["value"].strip() for turn in kept)
    assert loaded_by_lavida_o(kept, images) == kept
    if images < 2:
        check_convllava(kept, images)
    assert normal_turns(kept, images) == (kept, None)
    json.dumps(kept, ensure_ascii=False).encode()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["from", "value", "role"]), inner),
    max_leaves=9,
)


@given(JSON_VALUES)
def test_no_json_is_too_odd(published: object) -> None:
    kept, reason = normal_turns(published, 1)
    assert (kept is None) == (reason in REASONS)


# --- The column -------------------------------------------------------------------------------------------------


def test_column() -> None:
    conversations = [
        json.dumps(human_gpt("<image>\nQ", "é")),
        json.dumps(json.dumps(human_gpt("Q", "A"))),
        json.dumps(human_gpt("Q", "")),
        None,
        json.dumps(human_gpt("Q", "A")),
    ]
    images = pa.array([1, 0, 0, 0, None], pa.int32())
    expected = [
        {"turns": conversations[0], "reason": None},  # in order already, so it is the same text
        {"turns": json.dumps(human_gpt("Q", "A")), "reason": None},
        {"turns": None, "reason": "empty_turn"},
        {"turns": None, "reason": "no_conversations"},
        {"turns": json.dumps(human_gpt("Q", "A")), "reason": None},
    ]
    whole = pa.array(conversations, pa.string())
    assert turns_column(whole, images).to_pylist() == expected
    assert turns_column(pa.chunked_array([whole[:2], whole[2:]]), images).to_pylist() == expected
    empty = turns_column(NOTHING, pa.array([], pa.int32()))
    assert (len(empty), str(empty.type)) == (0, "struct<turns: string, reason: string>")


def test_column_in_duckdb_gives_native_turns() -> None:
    connection = duckdb.connect(config={"threads": 1})
    connection.create_function(
        "normal_turns",
        turns_column,
        ["VARCHAR", "INTEGER"],
        "STRUCT(turns VARCHAR, reason VARCHAR)",
        type=PythonUDFType.ARROW,
        null_handling=FunctionNullHandling.SPECIAL,
    )
    odd = human_gpt('\\ "quotes" \0 and\ttabs', "🔴 é\u2028")
    connection.execute("CREATE TABLE published (conversations VARCHAR)")
    connection.executemany("INSERT INTO published VALUES (?)", [[json.dumps(odd)], [None]])
    native = """from_json(made.turns, '[{"from": "VARCHAR", "value": "VARCHAR"}]')"""
    rows = connection.execute(
        f"SELECT {native}, made.reason FROM (SELECT normal_turns(conversations, 0) AS made FROM published)"
    ).fetchall()
    assert rows == [(odd, None), (None, "no_conversations")]


def test_column_takes_ten_million_rows_in_minutes() -> None:
    dialogue = human_gpt(
        "<image>\n" + "Find the angle. " * 16, "It follows from the sum. " * 30, "Why? " * 50, "So. " * 200
    )
    rows = pa.array([json.dumps(dialogue)] * 2048)
    ones = pa.array([1] * 2048)
    best = min(_seconds(lambda: turns_column(rows, ones)) for _ in range(5))
    assert best / 2048 < 100e-6  # a tenth of it on a quiet machine


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
