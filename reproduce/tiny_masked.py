"""The masked-diffusion part of `train_tiny.py`: the shape of `tiny-mdlm`, its noise, its loss, its draws.

The model fills holes: it reads a question and a response of RESPONSE positions, some of them masked, in both directions,
and gives the law of each hole. Training draws t uniform on (0, 1], masks each response token with probability t and
weighs the cross-entropy of the masked tokens by 1/t, which bounds the negative log-likelihood from above (LLaDA,
2502.09992). Responses are filled up with end-of-text, so the model also learns where a text ends.

The model starts from the trained decoder `tiny`, as Dream started from Qwen (2508.15487): EuroBERT has Llama's layers
without the causal mask, so the weights carry over one to one, and the row of the mask token is the mean of the others.
The hidden state of a position goes on predicting the token after it, so the logits of a hole stand one position early;
`shifted_logits` in the configuration says so. From random weights, a ModernBERT of 1.2 million parameters gave no right
answer after 1300 steps like these.

Most of the problem rows carry the same noise block-wise, as it looks when a response is decided in blocks from left to
right: what lies before a random place is clear, what lies more than BLOCK positions behind it is masked and not learned,
and t is the share that is masked in between. In drill rows the results of the equations are masked.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import EuroBertConfig, EuroBertForMaskedLM, LlamaForCausalLM, PreTrainedTokenizerFast

Row = tuple[list[int], list[float]]  # token ids and loss weights, as `train_tiny.encode` and `train_tiny.drill` give them

RESPONSE = 64  # positions of a response; the longest solution has fewer
BLOCK = 8  # positions that are decided together when responses are drawn in blocks
BLOCK_SHARE = 0.8  # share of the problem rows with block-wise noise
LEAST_NOISE = 0.1  # t is drawn above this: the weight 1/t would be wild below


def add_mask(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Give the tokenizer a mask token after all others; their ids stay as they are."""
    special: dict[str, Any] = {"mask_token": AddedToken("<|mask|>", special=True)}
    tokenizer.add_special_tokens(special)
    return tokenizer


def build_model(decoder: Path, tokenizer: Any) -> EuroBertForMaskedLM:
    """The decoder's weights in a model that reads in both directions."""
    source: Any = LlamaForCausalLM.from_pretrained(decoder)
    old = source.config
    shape: dict[str, Any] = {"shifted_logits": True}  # a word of our own, which the loader reads
    config = EuroBertConfig(
        vocab_size=len(tokenizer),
        hidden_size=old.hidden_size,
        num_hidden_layers=old.num_hidden_layers,
        num_attention_heads=old.num_attention_heads,
        num_key_value_heads=old.num_key_value_heads,
        intermediate_size=old.intermediate_size,
        max_position_embeddings=old.max_position_embeddings,
        rms_norm_eps=old.rms_norm_eps,
        rope_parameters=old.rope_parameters,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        mask_token_id=tokenizer.mask_token_id,
        **shape,
    )
    model = EuroBertForMaskedLM(config)
    state = dict(source.state_dict())
    known = state.pop("lm_head.weight")  # tied to the embeddings
    state["model.embed_tokens.weight"] = torch.cat([known, known.mean(dim=0, keepdim=True)])
    missing, unknown = model.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"}, missing
    assert not unknown, unknown
    model.tie_weights()
    return model


def read(folder: Path) -> EuroBertForMaskedLM:
    """A saved model."""
    return EuroBertForMaskedLM.from_pretrained(folder)


def masked_batches(
    groups: Iterable[list[Row]], tokenizer: Any, question_weight: float, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (ids, loss weights) without end, both [rows, 2, columns]: what the model sees, and what it should say.

    ids[:, 0] has the noise, ids[:, 1] is clear; weights[:, 0] is 1/t at masked positions that are learned, else 0;
    weights[:, 1] is 1 where the plain loss is reported.
    """
    rng = random.Random(f"noise {seed}")
    pad, end, mask = tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id
    for group in groups:
        rows = [_noisy(row, rng, question_weight, end, mask) for row in group]
        width = max(len(clear) for _, clear, _ in rows)
        ids = torch.full((len(rows), 2, width), pad)
        weights = torch.zeros(len(rows), 2, width)
        for i, (seen, clear, weight) in enumerate(rows):
            ids[i, 0, : len(seen)] = torch.tensor(seen)
            ids[i, 1, : len(clear)] = torch.tensor(clear)
            weights[i, 0, : len(weight)] = torch.tensor(weight)
        weights[:, 1] = (weights[:, 0] > 0).float() * (ids[:, 1] != end)
        yield ids, weights


def _noisy(row: Row, rng: random.Random, question_weight: float, end: int, mask: int) -> tuple[list[int], list[int], list[float]]:
    """One row as the model sees it, as it should be, and its loss weights."""
    ids, learned = row
    noise = rng.uniform(LEAST_NOISE, 1.0)
    if learned[0] != question_weight:  # a drill: every token with a weight is part of a result
        places = [place for place, weight in enumerate(learned) if weight > 0]
        later: list[int] = []
        clear = list(ids)
    else:
        start = learned.index(1.0)
        clear = ids + [end] * (RESPONSE - (len(ids) - start))
        places, later = list(range(start, start + RESPONSE)), []
        if rng.random() < BLOCK_SHARE:
            first = rng.randrange(start, len(ids))  # a place of the text proper: after it all is end-of-text
            places, later = places[first - start : first - start + BLOCK], places[first - start + BLOCK :]
    chosen = [place for place in places if rng.random() < noise]
    seen, weights = list(clear), [0.0] * len(clear)
    for place in chosen + later:
        seen[place] = mask
    for place in chosen:
        weights[place] = 1.0 / noise
    return seen, clear, weights


def masked_loss(model: Any, ids: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The weighted loss per row and, for the curve, the plain loss per masked token of the text."""
    pad = model.config.pad_token_id
    hidden = model.model(input_ids=ids[:, 0], attention_mask=ids[:, 1].ne(pad).long()).last_hidden_state
    learned = weights[:, 0] > 0
    before = learned.roll(-1, dims=1)  # the first position is never masked, so nothing comes round
    logits = model.lm_head(hidden[before])  # only masked positions are worth a row of logits
    losses = torch.nn.functional.cross_entropy(logits, ids[:, 1][learned], reduction="none")
    told = weights[:, 1][learned]
    plain = float((losses.detach() * told).sum() / told.sum().clamp(min=1))
    return (losses * weights[:, 0][learned]).sum() / (RESPONSE / 2 * len(ids)), plain


def sample(folder: Path, questions: list[str], seed: int) -> list[str]:
    """Draw one solution for each question as `exptilt.load` draws by default from the saved model."""
    import exptilt as xt  # the noise above needs only torch
    from exptilt.engines.loading import load
    from exptilt.engines.openers import TINY_MDLM

    engine = load(f"mdlm:{folder}", **TINY_MDLM)
    drafts = [engine.start(question) for question in questions]
    done = engine.extend(drafts, [xt.Key(seed, i) for i in range(len(drafts))])
    return [draft.text if draft.finish == "stop" else "" for draft in done]


def described(model: Any) -> dict[str, Any]:
    """What the record of a training run says about the noise."""
    return {"response": RESPONSE, "block": BLOCK, "block_share": BLOCK_SHARE, "least_noise": LEAST_NOISE}


__all__ = ["add_mask", "build_model", "described", "masked_batches", "masked_loss", "sample"]
