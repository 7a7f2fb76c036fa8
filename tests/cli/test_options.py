"""An option that several commands take is one option: the same type, and the same words."""

from collections import defaultdict

import click
from typed import leaves

from keepstate.cli import cli

OWN_TYPE = {
    "--context": "a benchmark of fewer tokens than a prompt has is none",
    "--gpus": "a machine of a cluster may have none, a training that counts them has one",
    "--port": "only a server that is asked for by hand may take any free one",
    "--runtime": "traces collect plays all by default",
    "--seed": "a trainer's is no negative number",
    "--temperature": "a benchmark plays several",
    "--tool-calls": "the scripted teacher needs two, and a benchmark plays several",
}
"""Each with its reason."""
SAME = {"--allow-unsafe", "--base-url", "--concurrency", "--fresh", "--isolation", "--json", "--laptop", "--margin"}
SAME |= {"--port", "--run", "--seconds", "--temperature", "--tokenizer", "--tool-calls", "--turns"}
"""Those whose words are the same too: of the others, such as `--out`, each command says what it means by it."""


def shared() -> dict[str, list[click.Option]]:
    """Options of several commands, by their first name."""
    found: dict[str, list[click.Option]] = defaultdict(list)
    for _, command in leaves(cli):
        for option in command.params:
            if isinstance(option, click.Option):
                found[option.opts[0]].append(option)
    return {name: options for name, options in found.items() if len(options) > 1}


def words(option: click.Option) -> str:
    """Its help, without what stands for it where it is not given."""
    return (option.help or "").partition(";")[0].rstrip(".")


def test_options_of_one_name_have_one_type() -> None:
    other = {name for name, options in shared().items() if len({str(each.type) for each in options}) > 1}
    assert other == set(OWN_TYPE)


def test_options_of_one_name_say_the_same() -> None:
    same = {name for name, options in shared().items() if len({words(each) for each in options}) == 1}
    assert same >= SAME
