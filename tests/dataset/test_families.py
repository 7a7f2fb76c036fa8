"""Chat templates of the families of base models: chosen by the tokenizer, append-only, proven token by token."""

import json
from pathlib import Path

import pytest
from made_tokenizers import FAMILIES, make_tokenizer
from made_traces import ANSWERS, OBSERVATION, build_one, make_trace, write_traces

from keepstate.dataset.fitting import fitting_template, require_append_only
from keepstate.dataset.sample import Refused, end_of_turn, prompts, prove
from keepstate.dataset.templates import BUILT_IN, OWN, ChatTemplate, load_template, template_by_name
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.errors import UserError
from keepstate.models.base import Message
from keepstate.vocabulary import RuntimeName

ODD = "a  b\n\n\n\tc <b>x</b> 'tis 1234 \n"
PERSISTENT = RuntimeName.PERSISTENT


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, make_tokenizer(request.param, tmp_path_factory.mktemp("model"))


def talk(*answers: str, system: bool = True) -> list[Message]:
    messages = [Message(role="system", content="You act.")] if system else []
    for answer in answers:
        messages += [Message(role="user", content=OBSERVATION + ODD), Message(role="assistant", content=answer)]
    return messages


@pytest.mark.parametrize("system", [True, False])
def test_every_familys_turns_are_proven_and_are_the_tokenizers_own(model: tuple[str, Path], system: bool) -> None:
    family, tokenizer = FAMILIES[model[0]], TextTokenizer(model[1])
    assert fitting_template(tokenizer) == family.template
    template = load_template(family.template, model[1])
    require_append_only(template)
    messages = talk(*ANSWERS, ODD, "  lead", system=system)
    sample = prove(messages, template, tokenizer)
    assert sample.ids == tokenizer.raw.encode(template.render(messages), add_special_tokens=False).ids
    assert end_of_turn(template, tokenizer) == family.end_of_turn
    for span, (_, prompt) in zip(sample.answers, prompts(messages, template), strict=True):
        assert sample.ids[: span.start] == tokenizer.raw.encode(prompt, add_special_tokens=False).ids
        assert sample.ids[span.end - 1] == tokenizer.specials[family.end_of_turn]
    assert "You act." in template.render(messages) or not system


def test_text_between_turns_is_no_beginning(tmp_path: Path) -> None:
    """Mistral's tokenizer marks the beginning of a text as it marks a space; behind a special token it does not."""
    tokenizer = TextTokenizer(make_tokenizer("mistral", tmp_path))
    template = ChatTemplate("t", load_template("mistral").text.replace("'</s>'", "'</s>between'"))
    sample = prove(talk(*ANSWERS), template, tokenizer)
    assert sample.ids == tokenizer.raw.encode(template.render(talk(*ANSWERS)), add_special_tokens=False).ids
    assert tokenizer.ids("user") != tokenizer.ids("user", inside=True)


def test_an_answer_that_melts_into_an_added_token_is_refused(tmp_path: Path) -> None:
    """Gemma's tokenizer has tokens of several newlines, and its prompt ends with one."""
    tokenizer = TextTokenizer(make_tokenizer("gemma", tmp_path))
    with pytest.raises(Refused) as refused:
        prove(talk("\nx"), load_template("gemma"), tokenizer)
    assert refused.value.reason == "answer melts into the prompt"


def test_tokens_that_are_plain_text_are_no_reason_to_refuse_and_others_are(tmp_path: Path) -> None:
    tokenizer = TextTokenizer(make_tokenizer("gemma", tmp_path))
    assert prove(talk("<table>\n\n<code>x</code>"), load_template("gemma"), tokenizer).answers
    for spelled in ("<mask>", "<end_of_turn>"):
        with pytest.raises(Refused, match=spelled):
            prove(talk(f"a {spelled}"), load_template("gemma"), tokenizer)


def test_the_longest_of_many_tokens_is_found_as_the_tokenizer_finds_it(tmp_path: Path) -> None:
    tokenizer = TextTokenizer(make_tokenizer("gemma", tmp_path))
    text = "\n\n\n\n\n<b>\t\t</b><tablex<code>\n<b"
    assert tokenizer.ids(text) == tokenizer.raw.encode(text, add_special_tokens=False).ids
    assert tokenizer.split("\n\n\n\n")[1::2] == ["\n\n\n", "\n"]


HISTORY = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
THINKS_LAST = HISTORY.replace(
    "{{ m.content }}", "{% if m.role == 'assistant' and loop.last %}<think>{% endif %}{{ m.content }}"
)
SYSTEM_LAST = (
    "{% for m in messages[1:] %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'user' and loop.revindex < 3 %}{{ messages[0].content }}{% endif %}{{ m.content }}<|im_end|>\n"
    "{% endfor %}"
)


@pytest.mark.parametrize(
    ("text", "turn", "shown"),
    [
        (THINKS_LAST + PROMPT, "the training text does not begin with the prompt of turn 2", "'<think>```python"),
        (SYSTEM_LAST + PROMPT, "the prompt of turn 1 does not begin with the prompt of turn 0", "'Pack the knapsack."),
        (HISTORY.replace("m.content }}", "m.content | upper }}") + PROMPT, "turn 1 does not begin", "'IRST I LOOK."),
        (HISTORY, "turn 1 does not begin", "instead of 'First"),
    ],
)
def test_a_template_that_rewrites_history_is_refused_before_anything_is_built(
    text: str, turn: str, shown: str, tmp_path: Path, small_tokenizer: TextTokenizer
) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(text)
    root = write_traces(tmp_path / "t", [make_trace(0)])
    with pytest.raises(UserError, match=turn) as caught:
        build_one(root, PERSISTENT, tmp_path / "d", template=path, tokenizer=small_tokenizer.path)
    assert shown in caught.value.message
    assert str(path) in caught.value.message
    assert "chatml" in caught.value.hint
    assert not (tmp_path / "d").exists()


def test_a_template_that_takes_no_system_message_is_tried_without() -> None:
    guard = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    require_append_only(ChatTemplate("t", guard + load_template("chatml").text))
    with pytest.raises(UserError, match="chat template t refuses a conversation of three answers: never"):
        require_append_only(ChatTemplate("t", "{{ raise_exception('never') }}"))


@pytest.mark.parametrize("role", ["system", "user"])
def test_a_template_that_leaves_out_what_is_said_is_refused(role: str) -> None:
    silent = HISTORY.replace("in messages", f"in messages if m.role != '{role}'") + PROMPT
    with pytest.raises(UserError, match=f"chat template t leaves out what the {role} says"):
        require_append_only(ChatTemplate("t", silent))


def test_a_file_gets_the_models_special_tokens_wherever_it_goes(tmp_path: Path) -> None:
    model = make_tokenizer("llama3", tmp_path / "model")
    text = load_template("llama3").text.replace("'<|begin_of_text|>'", "bos_token").replace("'<|eot_id|>'", "eos_token")
    path = tmp_path / "theirs.jinja"
    path.write_text(text)
    with pytest.raises(UserError, match=r"uses bos_token, eos_token, which no tokenizer_config\.json"):
        load_template(path).render(talk("x"))
    taken = load_template(path, model)
    assert taken.render(talk("x")) == load_template("llama3").render(talk("x"))
    assert ChatTemplate("as a file", taken.text).render(talk("x")) == taken.render(talk("x"))
    about = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(about | {"chat_template": text}))
    assert load_template(OWN, model).text == taken.text
    with pytest.raises(UserError, match="no chat template of its own"):
        load_template(OWN, tmp_path)


def test_a_tokenizer_without_turns_is_told_what_can_be_given(tmp_path: Path) -> None:
    folder = make_tokenizer("gemma", tmp_path)
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text().replace("<end_of_turn>", "<other>"))
    with pytest.raises(UserError, match="which chat template fits") as caught:
        fitting_template(TextTokenizer(folder))
    assert "--chat-template FILE" in caught.value.hint


def test_qwen3_without_thinking_at_all_gets_chatml(tmp_path: Path) -> None:
    folder = make_tokenizer("qwen3", tmp_path)
    assert fitting_template(TextTokenizer(folder)) == "qwen3_nothink"
    (folder / "chat_template.jinja").write_text(load_template("chatml").text)
    assert fitting_template(TextTokenizer(folder)) == "chatml"


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("Qwen/Qwen3-0.6B", "qwen3_nothink"),
        ("Qwen/Qwen3-4B-Instruct-2507", "chatml"),
        ("Qwen/Qwen2.5-7B-Instruct", "chatml"),
        ("meta-llama/Llama-3.2-1B-Instruct", "llama3"),
        ("google/gemma-3-4b-it", "gemma"),
        ("somebody/model", None),
    ],
)
def test_a_hubs_model_is_known_by_its_name(name: str, template: str | None) -> None:
    assert template_by_name(name) == template
    assert template in (None, *BUILT_IN)
