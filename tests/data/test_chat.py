"""Chats in every layout that is read, and what is refused because it would be lost."""

import json

import pytest

from distillctl.data.chat import Chat, read_chat
from distillctl.errors import ConfigError

SYSTEM = {"role": "system", "content": "Be brief."}
ASKED = {"role": "user", "content": "What is 2+3?"}
SAID = {"role": "assistant", "content": "5"}
AGAIN = {"role": "user", "content": "And 2+4?"}


def read(value) -> Chat:
    return read_chat(value, "x.jsonl:1", "prompt")


# --- the answer at the end -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chat", "prompt", "answer"),
    [
        ([ASKED], [ASKED], None),
        ([ASKED, SAID], [ASKED], "5"),
        ([SYSTEM, ASKED, SAID], [SYSTEM, ASKED], "5"),
        ([ASKED, SAID, AGAIN], [ASKED, SAID, AGAIN], None),
        ([ASKED, SAID, AGAIN, {"role": "assistant", "content": "6"}], [ASKED, SAID, AGAIN], "6"),
        ([ASKED, SAID, {"role": "assistant", "content": "I am sure."}], [ASKED, SAID], "I am sure."),
        ([ASKED, SYSTEM, SAID], [ASKED, SYSTEM], "5"),
    ],
)
def test_the_assistants_last_turn_is_the_answer_and_earlier_ones_stay(chat, prompt, answer):
    assert read(chat) == Chat(prompt, answer)


@pytest.mark.parametrize(
    ("chat", "what"),
    [
        ([SAID], "no message with the role `user`"),
        ([SYSTEM], "no message with the role `user`"),
        ([SYSTEM, SAID], "no message with the role `user`"),
        ([ASKED, SYSTEM], "`prompt` ends with a system message"),
        ([ASKED, {"role": "assistant", "content": ""}], r"`prompt\[1\].content` is empty"),
        ([ASKED, {"role": "assistant", "content": " \n"}, AGAIN], r"`prompt\[1\].content` is empty"),
        ([ASKED, {"role": "assistant", "content": None}], r"`prompt\[1\].content` is missing or null"),
        ([ASKED, {"role": "narrator", "content": "x"}], r"`prompt\[1\].role` is `narrator`"),
        ([{"role": "User", "content": "x"}], r"`prompt\[0\].role` is `User`"),
    ],
)
def test_a_chat_that_asks_nothing_is_refused_with_its_row(chat, what):
    with pytest.raises(ConfigError, match=f"^x.jsonl:1: .*{what}"):
        read(chat)


# --- layouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("spaces", [None, 1])
def test_the_json_text_of_messages_is_read_as_messages(spaces):
    text = f" {json.dumps([SYSTEM, ASKED, SAID], indent=spaces)}\n"
    assert read(text) == Chat([SYSTEM, ASKED], "5")


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2, 3] has how many elements?",
        "[1, 2, 3]",
        "[]",
        "[",
        '[{"a": 1}]',
        '[{"role": "user", "content": "hi"}] What is this?',
        "[{'role': 'user', 'content': 'hi'}, ] is printed by what?",
        '{"role": "user", "content": "hi"} is what kind of JSON?',
        '{"title": "Report", "parts": [{"name": "a", "text": "b"}]}',
        '[{"name": "Bob", "role": "user"}, {"name": "Al", "role": "admin"}]',
        '[{"from": "Paris", "to": "Rome"}]',
        '{"from": "USD", "to": "EUR", "value": 10}',
        '[{"from": "USD", "to": "EUR", "value": 5}]',
        '[{"from": 0, "to": 10, "value": 5}]',
        '{"role": "engineer", "content": "A job."}',
        '{"messages": []}',
        '[{"a": 1}, {"b": 2',
        "[INST] hi [/INST]",
        '"quoted"',
        "\ufeff[1, 2]",
        "[" * 900 + "]" * 900,
        "[" * 100_000,
    ],
)
def test_other_text_that_looks_like_it_stays_text(text):
    assert read(text) == Chat([{"role": "user", "content": text}], None)


CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "add"}}]}
RESULT = {"role": "tool", "content": "5"}


@pytest.mark.parametrize(
    ("tree", "what"),
    [
        ([ASKED, CALL, RESULT], r"`prompt\[1\]`: `tool_calls` cannot be read"),
        ([CALL], r"`prompt\[0\]`: `tool_calls` cannot be read"),
        ([ASKED, {"role": "assistant"}], r"`prompt\[1\].content` is missing"),
        ([{"role": "user"}], r"`prompt\[0\].content` is missing"),
        ([{"from": "human"}, {"from": "gpt"}], r"`prompt\[0\].value` is missing"),
        ([{"role": "user", "parts": [{"text": "hi"}]}], r"`prompt\[0\].content` is missing"),
        ([ASKED, {"content": "5"}], r"`prompt\[1\].role` is missing"),
        ([ASKED, "5"], r"`prompt\[1\]` must be a message, got text"),
        ([ASKED, None], r"`prompt\[1\]` must be a message, got null"),
        ([[ASKED, SAID]], r"`prompt\[0\]` must be a message, got a list"),
        ({"messages": [ASKED]}, "`prompt` must be text or messages, got an object"),
        (ASKED, "`prompt` must be text or messages, got an object"),
    ],
)
def test_the_json_text_of_a_bad_chat_is_refused_as_that_chat_is(tree, what):
    for value in (tree, json.dumps(tree), "\ufeff" + json.dumps(tree, indent=1)):
        with pytest.raises(ConfigError, match=f"^x.jsonl:1: {what}"):
            read(value)


def test_a_byte_order_mark_before_the_json_text_of_messages_does_no_harm():
    assert read("\ufeff" + json.dumps([ASKED, SAID])) == Chat([ASKED], "5")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('[{"role": "user", "content": "a", "content": "b"}]', "`content` comes twice in one object"),
        (json.dumps(json.dumps([ASKED])), "is the JSON text of the JSON text of messages"),
    ],
)
def test_json_text_of_messages_that_is_ambiguous_is_refused(text, what):
    with pytest.raises(ConfigError, match=f"^x.jsonl:1: `prompt`.*{what}"):
        read(text)


@pytest.mark.parametrize(
    "text",
    [
        str([ASKED, SAID]),
        str((ASKED, SAID)),
        str([{"name": None} | ASKED]),
        str([ASKED]).replace("}]", "},]"),
        "[{'content': \"it's\", 'role': 'user'}\n {'role': 'assistant', 'content': 'a'}]",
        json.dumps([ASKED])[:-2] + ",}]",
        json.dumps([ASKED])[:-1] + ",]",
        json.dumps([ASKED, SAID])[:-1],
        json.dumps([ASKED, SAID])[:-9],
        json.dumps([ASKED, SAID])[:30],
        '[{"content": "a ] } b',
        json.dumps(ASKED) + "\n" + json.dumps(SAID),
    ],
)
def test_what_looks_like_messages_and_is_not_json_is_refused(text):
    with pytest.raises(ConfigError, match="looks like the text of messages, but is not JSON"):
        read(text)


def test_parts_of_text_are_joined():
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "2+3?", "image_url": None}]
    assert read([{"role": "user", "content": parts}]) == Chat([ASKED], None)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "a.png"}},
        {"type": "image"},
        {"type": "input_audio", "input_audio": {"data": "x"}},
        {"type": "text", "text": "x", "image_url": {"url": "a.png"}},
        {"type": "text", "text": None},
        {"text": "x"},
        "x",
        None,
    ],
)
def test_other_parts_are_refused(part):
    content = [{"type": "text", "text": "What is this?"}, part]
    with pytest.raises(ConfigError, match=r"^x.jsonl:1: `prompt\[0\].content\[1\]"):
        read([{"role": "user", "content": content}])


def test_sharegpt_is_read():
    talk = [("system", "Be brief."), ("human", "What is 2+3?"), ("gpt", "5")]
    assert read([{"from": who, "value": text} for who, text in talk]) == Chat([SYSTEM, ASKED], "5")


@pytest.mark.parametrize("speaker", ["narrator", "Human", "bing"])
def test_an_unknown_speaker_is_refused(speaker):
    with pytest.raises(ConfigError, match=rf"`prompt\[1\].from` is `{speaker}`") as caught:
        read([{"from": "human", "value": "x"}, {"from": speaker, "value": "y"}])
    assert "human, gpt" in caught.value.hint


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "content": "5"},
        {"from": "observation", "value": "5"},
        {"from": "function_call", "value": "{}"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add"}}]},
        {"role": "assistant", "content": "x", "function_call": {"name": "add"}},
        {"role": "user", "content": "x", "images": ["a.png"]},
    ],
)
def test_tools_and_images_in_messages_are_refused(message):
    with pytest.raises(ConfigError, match=r"^x.jsonl:1: `prompt\[1\]`.* cannot be read"):
        read([ASKED, message, SAID])


@pytest.mark.parametrize("empty", [None, [], {}, "", "[]", [None]])
def test_keys_with_nothing_in_them_do_no_harm(empty):
    assert read([ASKED, SAID | {"tool_calls": empty, "name": "me"}]) == Chat([ASKED], "5")
