"""A language model with random weights, small enough to enumerate and fast enough for every test."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from exptilt.engines.requirements import WAITING
from tests.engines.fake_server import Fake, serving
from tests.engines.served import load_from

os.environ.update(WAITING | os.environ)  # before torch is imported: tests share their cores


def interrupt_start(begun: bool, call: Callable[[], object]) -> None:
    """A call that Ctrl-C ends while it starts a thread, before or after that has begun."""
    right = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if begun:
            right(thread)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(KeyboardInterrupt):
            call()


def build(folder: Path, *, template: bool = False, hidden: int = 32, layers: int = 2, scale: float = 1.0) -> Path:
    """Save a Llama of random weights with a byte-level tokenizer: ids 0 pad, 1 bos, 2 end, 3 the other end, then bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<pad>", "<bos>", "<end>", "<over>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *letters])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # pyright: ignore
    core.decoder = decoders.ByteLevel()  # pyright: ignore
    core.add_special_tokens(special)
    core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])  # pyright: ignore
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", eos_token="<end>", pad_token="<pad>")
    if template:
        tokenizer.chat_template = (
            "<bos>{% for turn in messages %}{{ turn['role'][0] }}:{{ turn['content'] }};{% endfor %}"
            "{% if add_generation_prompt %}a:{% endif %}"
        )
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=False,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.15 * scale,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=[2, 3], pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return build(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return build(tmp_path_factory.mktemp("chat"), template=True)


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """Starts a fake server and loads an engine from it."""
    with ExitStack() as stack:

        def start(fake: Fake, **parts: Any) -> Any:
            engine = load_from(stack.enter_context(serving(fake)), **parts)
            stack.callback(engine.close)
            return engine

        yield start
