"""Chat templates are rendered as transformers renders them, byte for byte, or refused by name."""

import json
import subprocess
from pathlib import Path

import pytest

from keepstate.dataset.sample import TEMPLATE, Refused, prove
from keepstate.dataset.templates import BUILT_IN, SPECIAL_TOKENS, ChatTemplate, load_template
from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.errors import UserError
from keepstate.models.base import Message
from keepstate.setup import installing

MESSAGES: list[Message] = [
    {"role": "system", "content": 'Be <brief> & "plain".'},
    {"role": "user", "content": "  2 + 2? é 漢  "},
    {"role": "assistant", "content": "4\n"},
    {"role": "user", "content": "'and' 3 > 2?"},
]
TEMPLATES = {
    "json": "{{ messages | tojson }}",
    "json, told how": "{{ messages[0] | tojson(indent=2) }}{{ messages[1] | tojson(ensure_ascii=True) }}",
    "json, sorted": "{{ {'b': 1, 'a': [none, true]} | tojson(sort_keys=true, separators=(',', ':')) }}",
    "generation": """
{% for message in messages %}
    {% if message.role == 'assistant' %}
<a>{% generation %}{{ message.content }}{% set inside = 1 %}<end>{% endgeneration %}
    {%- generation -%} {{ loop.index }} {%- endgeneration %}
    {% else %}
<u>{{ message['content'] | trim }}
    {% endif %}
{% endfor %}{{ 'in' if inside is defined else 'out' }}""",
    "break": "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m }}{% break %}{% endfor -%}",
    "a guard": "{% if messages | length > 9 %}{{ raise_exception('too long') }}{% endif %}{{ messages[-1].content }}",
    "what is defined": "{{ [raise_exception is defined, strftime_now is defined, documents is none, tools is none] }}",
    "whitespace": "  {# a #}\n  {% set x = 1 %}\n  {{ x }}\n\n{%- if add_generation_prompt %}\n  <go>\n{% endif %}\n",
    "namespace": "{% set n = namespace(k=0) %}{% for m in messages %}{% set n.k = n.k + 1 %}{% endfor %}{{ n.k }}",
}

THEIRS = """
import json, sys
from transformers.utils.chat_template_utils import render_jinja_template
made = []
for text, messages, prompt in json.load(sys.stdin):
    rendered, _ = render_jinja_template(
        conversations=[messages], chat_template=text, add_generation_prompt=prompt, enable_thinking=False
    )
    made.append(rendered[0])
print(json.dumps(made))
"""


@pytest.mark.train_env
def test_templates_render_as_by_transformers() -> None:
    texts = [*TEMPLATES.values(), *(load_template(name).text for name in BUILT_IN)]
    cases = [(text, MESSAGES[:end], prompt) for text in texts for end in (3, 4) for prompt in (False, True)]
    done = subprocess.run(
        [installing.ensure("train"), "-Ic", THEIRS], input=json.dumps(cases), capture_output=True, text=True, check=True
    )
    ours = [ChatTemplate("drawn", text).render(part, generation_prompt=prompt) for text, part, prompt in cases]
    assert ours == json.loads(done.stdout.splitlines()[-1])


@pytest.mark.train_env
def test_special_tokens_are_transformers_own() -> None:
    script = "from transformers import PreTrainedTokenizerBase as T; print(*T.SPECIAL_TOKENS_ATTRIBUTES)"
    done = subprocess.run([installing.ensure("train"), "-Ic", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == SPECIAL_TOKENS


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("json", """[{"role": "user", "content": "a <b> & 'c' é"}]"""),
        ("what is defined", "[True, True, True, True]"),
        ("a guard", "a <b> & 'c' é"),
    ],
)
def test_json_is_not_escaped_for_html_and_transformers_names_are_there(name: str, text: str) -> None:
    assert ChatTemplate("t", TEMPLATES[name]).render([{"role": "user", "content": "a <b> & 'c' é"}]) == text


def test_generation_marks_nothing_in_the_text() -> None:
    made = ChatTemplate("t", TEMPLATES["generation"]).render(MESSAGES[:3])
    assert made.endswith("<a>4\n<end>3out")


@pytest.mark.parametrize("text", ["{{ bos_token }}x", "{% if eos_token is defined %}y{% endif %}"])
def test_special_tokens_as_variables_are_refused_by_name(text: str) -> None:
    with pytest.raises(UserError, match=r"uses (bos|eos)_token") as caught:
        ChatTemplate("mine.jinja", text).render(MESSAGES)
    assert "<|im_end|>" in caught.value.hint
    assert ChatTemplate("t", "{% set bos_token = '<s>' %}{{ bos_token }}").render(MESSAGES) == "<s>"


def test_todays_date_is_refused_only_where_it_is_written() -> None:
    dated = ChatTemplate("t", "{% if messages | length > 3 %}{{ strftime_now('%d %b') }}{% endif %}")
    assert dated.render(MESSAGES[:3]) == ""
    with pytest.raises(UserError, match="strftime_now"):
        dated.render(MESSAGES)


def test_a_template_that_fails_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.jinja"
    path.write_text("{{ messages[0].no.such }}")
    with pytest.raises(UserError, match=rf"chat template {path}: .*no attribute 'no'"):
        load_template(path).render(MESSAGES)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ range(10 ** 9) | list }}", "OverflowError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ messages | tojson(default=1) }}", "TypeError"),
    ],
)
def test_what_its_expressions_raise_is_named_too(text: str, error: str) -> None:
    with pytest.raises(UserError, match=f"chat template t: {error}: "):
        ChatTemplate("t", text).render(MESSAGES)


def test_a_conversation_that_the_template_refuses_becomes_no_row(small_tokenizer: TextTokenizer) -> None:
    text = load_template("chatml").text
    guard = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    strict = ChatTemplate("t", guard + text)
    messages = [*MESSAGES[:2], Message(role="assistant", content="4")]
    assert prove(messages[1:], strict, small_tokenizer).answers
    with pytest.raises(Refused, match="no system") as caught:
        prove(messages, strict, small_tokenizer)
    assert caught.value.reason == TEMPLATE
