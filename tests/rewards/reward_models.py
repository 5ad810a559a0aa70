"""Tiny reward models with random weights and the bundled tokenizer, saved as transformers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from exptilt.draft import Draft
from exptilt.engines.files import MODELS

Kind = Literal["sequence", "token", "causal", "bert"]
QUESTION = "Tom has 3 apples and buys 4 more. How many has he?"
ANSWERS = (
    "3 + 4 = 7. The answer is 7.",
    "7",
    "He had 3.\nThen he bought 4.\nSo he has 3 + 4 = 7.",
    "I do not know how many apples there are, because nobody has told me.",
    "3 * 4 = 12.\nThe answer is 12.",
)


def save(folder: Path, kind: Kind = "sequence", *, labels: int = 1, seed: int = 0, template: bool = True, **more: Any) -> Path:
    """Save a model of two layers whose tokenizer begins every text. `more` goes into its configuration."""
    import torch
    import transformers
    from tokenizers import processors

    tokenizer = transformers.AutoTokenizer.from_pretrained(MODELS / "tiny")
    first = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A", pair=f"{first} $A $B:1", special_tokens=[(first, tokenizer.bos_token_id)]
    )  # pyright: ignore[reportCallIssue]
    if not template:
        tokenizer.chat_template = None
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 256, "num_labels": labels, "pad_token_id": 0,
        "initializer_range": 0.3,
    }  # fmt: skip
    torch.manual_seed(seed)
    if kind == "bert":
        config = transformers.BertConfig(**{**shape, **more})
        model: Any = transformers.BertForSequenceClassification(config)
    else:
        config = transformers.LlamaConfig(**{**shape, "num_key_value_heads": 2, **more})
        kinds = {
            "sequence": transformers.LlamaForSequenceClassification,
            "token": transformers.LlamaForTokenClassification,
            "causal": transformers.LlamaForCausalLM,
        }
        model = kinds[kind](config)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def drafts(*texts: str, finish: Literal["stop"] | None = "stop") -> list[Draft]:
    return [Draft(QUESTION, (), None, text, finish) for text in texts]
