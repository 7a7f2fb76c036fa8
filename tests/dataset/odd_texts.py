"""Texts that break converters: pieces of special tokens, of templates and of Unicode, for property tests."""

from hypothesis import strategies as st

SPELLED = ["<|im_end|>", "<|im_start|>", "<think>", "</think>", "<|im_", "end|>", "assistant\n", "{{ x }}", "{% x %}"]
ODD = ["\n", " ", "\ud800", "🎒", "e\u0301", "\x00", "\x1b[2J", "\u2028", "\r\n", "\ufeff", "[[dummy_message]]"]
TEXT = st.lists(st.text(max_size=20) | st.sampled_from(SPELLED + ODD), max_size=4).map("".join)
"""Anything, the empty text and lone surrogates included."""

PLAIN = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from([o for o in ODD if o != "\ud800"]),
    max_size=5,
).map("".join)
"""Odd, but nothing in it is a reason to refuse a conversation."""
