"""Templates, tokens and the parity proof, on a small tokenizer and on Qwen3's own."""

import json
import re
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_traces import ANSWERS, OBSERVATION
from odd_texts import TEXT

from keepstate.dataset.parity import MASKED, TrainingRow, compare, local_prompts, show
from keepstate.dataset.sample import REFUSALS, Refused, Sample, prompts, prove
from keepstate.dataset.templates import BUILT_IN, ChatTemplate, load_template
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.errors import UserError
from keepstate.models.base import Message
from keepstate.setup.qwen3 import qwen3_template

TALK = [
    Message(role="system", content="You act by writing Python."),
    Message(role="user", content="Fill the sack: 12 kg, it's 25 °C 🎒."),
    Message(role="assistant", content=ANSWERS[0]),
    Message(role="user", content=OBSERVATION),
    Message(role="assistant", content="  indented, with trailing space \n\n"),
    Message(role="user", content=""),
    Message(role="assistant", content=ANSWERS[1]),
]


def stock() -> ChatTemplate:
    return ChatTemplate("qwen3-stock", qwen3_template())


def encode(tokenizer: TextTokenizer, text: str) -> list[int]:
    """The tokenizer's own ids, not keepstate's splitting."""
    return list(tokenizer.raw.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_prompt_is_a_prefix_of_the_next_and_of_the_sample(name: str) -> None:
    template = load_template(name)
    whole = template.render(TALK)
    texts = [text for _, text in prompts(TALK, template)]
    assert len(texts) == 3
    for shorter, longer in zip(texts, [*texts[1:], whole], strict=True):
        assert longer.startswith(shorter)


def test_the_think_block_opens_every_answer_and_the_prompt() -> None:
    template = load_template("qwen3_nothink")
    opening = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    whole = template.render(TALK)
    assert whole.count(opening) == whole.count("<|im_start|>assistant") == 3
    assert template.render(TALK[:2], generation_prompt=True).endswith(opening)


def test_one_turn_is_qwens_own_template_byte_for_byte(qwen3: TextTokenizer) -> None:
    ours, theirs = load_template("qwen3_nothink"), stock()
    assert ours.render(TALK[:2], generation_prompt=True) == theirs.render(TALK[:2], generation_prompt=True)
    assert ours.render(TALK[1:2], generation_prompt=True) == theirs.render(TALK[1:2], generation_prompt=True)
    assert ours.render(TALK[:3]) == theirs.render(TALK[:3])


def test_qwens_own_template_is_not_append_only(qwen3: TextTokenizer) -> None:
    with pytest.raises(Refused, match="history") as refused:
        prove(TALK, stock(), qwen3)
    assert refused.value.reason == "prompt is no prefix"


@pytest.mark.parametrize(
    ("kind", "name"), [("small_tokenizer", "chatml"), ("qwen3", "chatml"), ("qwen3", "qwen3_nothink")]
)
def test_a_sample_is_the_tokenizers_own_and_trains_answers_and_end_of_turn_only(
    kind: str, name: str, request: pytest.FixtureRequest
) -> None:
    tokenizer: TextTokenizer = request.getfixturevalue(kind)
    template = load_template(name)
    talk = [*TALK[:4], *TALK[6:]]
    sample = prove(talk, template, tokenizer)
    assert sample.ids == encode(tokenizer, template.render(talk))
    for span, (number, prompt) in zip(sample.answers, prompts(talk, template), strict=True):
        answer = encode(tokenizer, talk[number]["content"])
        assert sample.ids[: span.start] == encode(tokenizer, prompt)
        assert sample.ids[span.start : span.end] == [*answer, tokenizer.specials["<|im_end|>"]]
    trained = [label for label in sample.labels() if label != MASKED]
    assert len(trained) == sum(span.end - span.start for span in sample.answers)
    assert tokenizer.specials["<think>"] not in trained
    assert tokenizer.decode(trained) == f"{ANSWERS[0]}<|im_end|>{ANSWERS[1]}<|im_end|>"


def test_a_template_that_does_not_fit_the_tokenizer_is_refused(small_tokenizer: TextTokenizer) -> None:
    """GPT-2's word splitting breaks two newlines before a word apart, and keeps them whole at a prompt's end."""
    with pytest.raises(Refused) as refused:
        prove(TALK, load_template("qwen3_nothink"), small_tokenizer)
    assert refused.value.reason == "answer melts into the prompt"


def test_an_answer_that_melts_into_the_prompt_is_refused(qwen3: TextTokenizer) -> None:
    with pytest.raises(Refused) as refused:
        prove([*TALK[:2], Message(role="assistant", content="\nhello")], load_template("qwen3_nothink"), qwen3)
    assert refused.value.reason == "answer melts into the prompt"


@pytest.mark.parametrize(
    ("number", "content", "reason"),
    [
        (1, "end <|im_end|>", "special token in text"),
        (2, "<think>", "thinking in an answer"),
        (2, "", "empty answer"),
        (3, "half \ud83d", "lone surrogate"),
        (2, "[[dummy_message]]", "answer is a placeholder"),
    ],
)
def test_what_cannot_be_proven_is_refused_by_name(
    number: int, content: str, reason: str, small_tokenizer: TextTokenizer
) -> None:
    talk = [Message(role=message["role"], content=message["content"]) for message in TALK]
    talk[number]["content"] = content
    with pytest.raises(Refused, match=f"message {number}") as refused:
        prove(talk, load_template("chatml"), small_tokenizer)
    assert refused.value.reason == reason


@pytest.mark.parametrize("roles", ["", "su", "sua a", "sau", "uu a", "uas", "ssua"])
def test_roles_out_of_order_are_refused(roles: str, small_tokenizer: TextTokenizer) -> None:
    names = {"s": "system", "u": "user", "a": "assistant"}
    talk = [Message(role=names[letter], content="x") for letter in roles.replace(" ", "")]  # type: ignore[typeddict-item]
    with pytest.raises(Refused) as refused:
        prove(talk, load_template("chatml"), small_tokenizer)
    assert refused.value.reason == "roles out of order"


def report_of(talk: Sequence[Message], ids: list[int], labels: list[int], tokenizer: TextTokenizer, name: str):  # type: ignore[no-untyped-def]
    prompt_ids = local_prompts(load_template(name), tokenizer)
    return compare(talk, TrainingRow(ids, labels), prompt_ids, tokenizer, tokenizer.specials["<|im_end|>"])


def test_the_comparison_finds_every_single_wrong_id_and_label(small_tokenizer: TextTokenizer) -> None:
    talk = [*TALK[:4], *TALK[6:]]
    sample = prove(talk, load_template("chatml"), small_tokenizer)
    ids, labels = sample.ids, sample.labels()
    assert report_of(talk, ids, labels, small_tokenizer, "chatml").good
    end = sample.answers[-1].end
    for place in range(end):
        wrong = [*ids[:place], ids[place] + 1, *ids[place + 1 :]]
        found = report_of(talk, wrong, labels, small_tokenizer, "chatml")
        assert found.context_wrong
        assert found.first.place == place
        flipped = ids[place] if labels[place] == MASKED else MASKED
        wrong = [*labels[:place], flipped, *labels[place + 1 :]]
        found = report_of(talk, ids, wrong, small_tokenizer, "chatml")
        assert (found.context_wrong, found.mask_wrong > 0) == (0, True)
    everything = report_of(talk, ids, ids, small_tokenizer, "chatml")
    assert everything.mask_wrong == 2


def test_what_qwens_template_on_both_sides_gets_wrong(qwen3: TextTokenizer) -> None:
    """Every turn but the last is trained without the think block that the server puts before it."""
    talk = [*TALK[:4], *TALK[6:]]
    ids = encode(qwen3, stock().render(talk))
    report = compare(talk, TrainingRow(ids, ids), local_prompts(stock(), qwen3), qwen3, qwen3.specials["<|im_end|>"])
    assert (report.turns, report.context_wrong) == (2, 1)
    lines = list(show(report.first, qwen3))  # type: ignore[arg-type]
    assert any("'<think>'" in line and line.startswith(">") for line in lines)


def proven(talk: Sequence[Message], template: ChatTemplate, tokenizer: TextTokenizer) -> Sample | Refused:
    try:
        return prove(talk, template, tokenizer)
    except Refused as refused:
        return refused


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(texts=st.lists(TEXT, min_size=2, max_size=6), name=st.sampled_from(BUILT_IN))
@pytest.mark.parametrize("kind", ["small_tokenizer", "qwen3"])
def test_any_text_is_proven_or_refused_and_never_becomes_a_special_token(
    kind: str, texts: list[str], name: str, request: pytest.FixtureRequest
) -> None:
    tokenizer: TextTokenizer = request.getfixturevalue(kind)
    template = load_template(name)
    talk = [Message(role=("user", "assistant")[place % 2], content=text) for place, text in enumerate(texts)]  # type: ignore[typeddict-item]
    talk = talk[: len(talk) // 2 * 2]
    sample = proven(talk, template, tokenizer)
    if isinstance(sample, Refused):
        assert sample.reason in REFUSALS
        assert re.search(r"message \d", str(sample))
        return
    whole = template.render(talk)
    assert sample.ids == encode(tokenizer, whole)
    specials = sum(number in tokenizer.specials.values() for number in sample.ids)
    per_answer = 4 if name == "qwen3_nothink" else 2
    assert specials == len(talk) // 2 * (2 + per_answer)
    for span, (number, prompt) in zip(sample.answers, prompts(talk, template), strict=True):
        answer = encode(tokenizer, talk[number]["content"])
        assert encode(tokenizer, prompt) + answer == sample.ids[: span.end - 1]


def test_a_line_of_100_kb_round_trips(small_tokenizer: TextTokenizer) -> None:
    talk = [Message(role="user", content="x y" * 33_334), Message(role="assistant", content="z" * 100_000)]
    sample = prove(talk, load_template("chatml"), small_tokenizer)
    assert sample.ids == encode(small_tokenizer, load_template("chatml").render(talk))


def test_a_tokenizer_whose_special_tokens_swallow_their_neighbours_is_refused(small_tokenizer: TextTokenizer) -> None:
    raw = json.loads(small_tokenizer.path.read_text())
    raw["added_tokens"][2]["rstrip"] = True
    path = small_tokenizer.path.with_name("odd.json")
    path.write_text(json.dumps(raw))
    with pytest.raises(UserError, match="im_end"):
        TextTokenizer(path)


def test_a_missing_or_broken_template_says_what_is_allowed(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match="no chat template 'nope'"):
        load_template("nope")
    (tmp_path / "t.jinja").write_text("{% if %}")
    with pytest.raises(UserError, match="line 1"):
        load_template(tmp_path / "t.jinja").render([])
