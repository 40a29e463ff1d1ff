"""Conversations in the one form that both trainers take, or the reason why a row has none.

What is done with each quirk, and why LaViDa-O and ConvLLaVA are both content:

- Text alone (`image` absent, null or empty): `images` is 0. No `<image>` may be left: both would look for a picture.
- A list of images: `images` is its length; ConvLLaVA's tables hold rows of one only.
- Roles in other forms (`user`, `Assistant`, keys `role` and `content`): `human` and `gpt`, the only two that both know.
- What stands before the first question (a gpt turn, a system prompt) and behind the last answer: left out. Both drop
  one leading gpt turn themselves, stop at a system turn, and learn nothing from a question without its answer.
- Two turns of one role in a row, or another role between: `turn_order`. Both assert that roles alternate, and to merge
  turns would be a guess at what was said.
- An empty question or answer: `empty_turn`. ConvLLaVA ignores the whole row over an empty last answer. A question of
  `<image>` alone is one.
- No `<image>` though there are images: all are put in front of the first question. LaViDa-O puts one there too;
  ConvLLaVA's `plain` format asserts that it is there.
- A lone `<image>` in the middle or at the end of its question: moved to the front, as both do while they load.
- The one `<image>` in a later question: moved to the first. LaViDa-O would add a second there, with one picture for the
  two. Where there are several images and the first question has none it cannot be known which belongs there.
- One image and several `<image>`: one stays, in front of the first question. Each token takes a picture in LaViDa-O;
  ConvLLaVA makes the copies of a turn one, and goes wrong over two turns.
- Any other number of `<image>` than of images: `image_tokens`.
- `<image>` in an answer: `image_in_answer`. Both take it for a picture wherever it stands, and to cut it out would
  change what is learned.
- Ids, and keys beside role and text: not read. JSON text: read, be it JSON once or twice.

LaViDa-O asks for detailed reasoning itself where VisualWebInstruct's answer is long; it is not asked for here. Captions
in quotes, and pictures with a lying extension or without bytes, are told in `grand_f` and by the image index.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TypeAlias

import pyarrow as pa

IMAGE = "<image>"
HUMAN, GPT = "human", "gpt"
_SYSTEM = "system"
_ROLES = {"human": HUMAN, "user": HUMAN, "gpt": GPT, "assistant": GPT, "model": GPT, "bot": GPT, "system": _SYSTEM}

NO_CONVERSATIONS = "no_conversations"  # as normalize says of any column without a value
BAD_CONVERSATION = "bad_conversation"  # not a list of turns, or a turn without a known role or without text
FEW_TURNS = "few_turns"  # no question with an answer behind it
TURN_ORDER = "turn_order"
EMPTY_TURN = "empty_turn"
IMAGE_TOKENS = "image_tokens"
IMAGE_IN_ANSWER = "image_in_answer"
REASONS = (NO_CONVERSATIONS, BAD_CONVERSATION, FEW_TURNS, TURN_ORDER, EMPTY_TURN, IMAGE_TOKENS, IMAGE_IN_ANSWER)

Turn: TypeAlias = dict[str, str]
_COLUMN = pa.struct([("turns", pa.string()), ("reason", pa.string())])
_encode = json.JSONEncoder(ensure_ascii=False).encode


class _Unusable(Exception):
    """A conversation that cannot be mended; its text is the reason."""


def normal_turns(published: object, images: int) -> tuple[list[Turn], None] | tuple[None, str]:
    """Turns of `{from, value}` that both trainers take, or None and the reason to drop the row.

    They alternate from human to gpt, none is empty, and `<image>` stands once for each image, in questions alone, at
    least once in the first, at the front of a turn where it is alone in it. Turns that are so stay as they are.

    Args:
        published: a list of turns as JSON gives it, or JSON text of one.
        images: how many the row has.
    """
    try:
        values = _values(_read(published) if isinstance(published, str) else published)
        return _as_turns(_with_tokens(values, images)), None
    except _Unusable as unusable:
        return None, str(unusable)


def turns_column(conversations: pa.ChunkedArray | pa.Array, images: pa.ChunkedArray | pa.Array) -> pa.StructArray:
    """`normal_turns` of each row: `{turns: JSON text, reason}`, of which one is null.

    Args:
        conversations: text.
        images: whole numbers, as many; null is 0.
    """
    turns: list[str | None] = []
    reasons: list[str | None] = []
    for text, count in zip(conversations.to_pylist(), images.to_pylist(), strict=True):
        try:
            published = _read(text) if text is not None else None
            normal, reason = normal_turns(published, count or 0)
        except _Unusable as unusable:
            normal, reason = None, str(unusable)
        # Most are in order already: their text stays, which saves writing it anew.
        turns.append(None if normal is None else text if normal == published and text[0] == "[" else _encode(normal))
        reasons.append(reason)
    return pa.StructArray.from_arrays(
        [pa.array(turns, pa.string()), pa.array(reasons, pa.string())], fields=list(_COLUMN)
    )


def _read(text: str) -> object:
    """What JSON text holds; text that it holds is read once more."""
    try:
        found = json.loads(text)
        return json.loads(found) if isinstance(found, str) else found
    except (ValueError, RecursionError):
        raise _Unusable(BAD_CONVERSATION) from None


def _values(published: object) -> list[str]:
    """Questions and answers by turns, from the first question to the last answer, none of them empty."""
    if published is None:
        raise _Unusable(NO_CONVERSATIONS)
    if not isinstance(published, list):
        raise _Unusable(BAD_CONVERSATION)
    roles = [_role(turn) for turn in published]
    start = roles.index(HUMAN) if HUMAN in roles else len(roles)
    stop = len(roles) - roles[::-1].index(GPT) if GPT in roles else 0
    roles = roles[start:stop]
    if not roles:
        raise _Unusable(FEW_TURNS)
    if roles != [HUMAN, GPT] * (len(roles) // 2):
        raise _Unusable(TURN_ORDER)
    return [_value(turn) for turn in published[start:stop]]


def _role(turn: object) -> str:
    if isinstance(turn, dict):
        published = turn.get("from", turn.get("role"))
        if isinstance(published, str):
            role = _ROLES.get(published.strip().lower())
            if role is not None:
                return role
    raise _Unusable(BAD_CONVERSATION)


def _value(turn: dict[str, object]) -> str:
    value = turn.get("value", turn.get("content"))
    if not isinstance(value, str) or not (value.isascii() or _is_unicode(value)):
        raise _Unusable(BAD_CONVERSATION)
    if not value or value.isspace():
        raise _Unusable(EMPTY_TURN)
    return value


def _is_unicode(text: str) -> bool:
    """Whether text can be written; JSON may hold half a character."""
    return text.encode(errors="ignore").decode() == text


def _with_tokens(values: list[str], images: int) -> list[str]:
    """The same turns with `<image>` where it has to stand."""
    counts = [value.count(IMAGE) for value in values]
    if any(counts[1::2]):
        raise _Unusable(IMAGE_IN_ANSWER)
    total = sum(counts)
    if images == 1 and total > 1:
        values = [
            value.replace(IMAGE, "").strip() if count else value for value, count in zip(values, counts, strict=True)
        ]
        if not all(values[1:]):
            raise _Unusable(EMPTY_TURN)
        total = 0
    if total == 0:
        return [f"{IMAGE}\n" * images + values[0], *values[1:]]
    if total != images or (images > 1 and counts[0] == 0):
        raise _Unusable(IMAGE_TOKENS)
    placed = [
        _in_front(value) if count == 1 and not value.startswith(IMAGE) else value
        for value, count in zip(values, counts, strict=True)
    ]
    if counts[0] == 0:
        at = counts.index(1)
        placed[at] = placed[at].removeprefix(IMAGE).strip()
        placed[0] = f"{IMAGE}\n{placed[0]}"
    if not all(placed):
        raise _Unusable(EMPTY_TURN)
    if sum(value.count(IMAGE) for value in placed) != images:  # what stood around a token was one: <im<image>age>
        raise _Unusable(IMAGE_TOKENS)
    return placed


def _in_front(value: str) -> str:
    return f"{IMAGE}\n{value.replace(IMAGE, '').strip()}"


def _as_turns(values: Sequence[str]) -> list[Turn]:
    return [{"from": (HUMAN, GPT)[number % 2], "value": value} for number, value in enumerate(values)]
