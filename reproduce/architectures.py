"""Every causal architecture of transformers, small and of random weights, in exptilt against the plain model.

    python reproduce/architectures.py                # all of them, a few minutes
    python reproduce/architectures.py llama bart     # some
    python reproduce/architectures.py --write        # the table of docs/models.md as well

Drafts are drawn for prompts of unlike length together, part by part, and scored; every log-probability is held against one plain
pass of the model over the whole text. *Right* says by which way the engine evaluates tokens: over *trunks* that rows share, with
key-values *kept* row by row, or the *whole* text read again for every token.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from exptilt.draft import Draft
from exptilt.engines.hf import Weights
from exptilt.engines.language import LanguageEngine
from exptilt.engines.sampling import Sampling
from exptilt.errors import ExptiltError
from exptilt.keys import Key

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- architectures: begin -->", "<!-- architectures: end -->"
PROMPTS = ["Anna reads seven pages a day. How many in a week?", "Anna reads seven", "Hi"]
TEMPERATURE = 0.7
MOST = 2e-3  # nats that log-probabilities may be off, in float32
LARGEST = 20_000_000  # parameters of a model that counts as small
SECONDS = 90  # for one architecture

WIDTHS = dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "word_embed_proj_dim", "hidden_dim"), 32)
INNER = dict.fromkeys(
    ("intermediate_size", "ffn_dim", "d_ff", "n_inner", "decoder_ffn_dim", "encoder_ffn_dim", "ffn_hidden_size", "d_inner",
     "shared_expert_intermediate_size", "moe_intermediate_size", "mlp_hidden_size", "attention_hidden_size"), 48,
)  # fmt: skip
LAYERS = dict.fromkeys(
    ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "num_decoder_layers", "encoder_layers"), 2
)
HEADS = dict.fromkeys(
    ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads", "encoder_attention_heads",
     "num_decoder_attention_heads", "num_encoder_attention_heads"), 4,
)  # fmt: skip
PLACES = dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len"), 256)
EXPERTS = {
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    "num_experts_per_tok": 2, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "n_shared_experts": 1,
}  # fmt: skip
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16}
STATES = {"state_size": 4, "mamba_d_state": 4, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_num_heads": 8, "mamba_head_dim": 8}
LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "lru_width": 32,
}  # fmt: skip
SMALL: Mapping[str, Any] = {
    **WIDTHS, **INNER, **LAYERS, **HEADS, **PLACES, **EXPERTS, **LATENT, **STATES, **LINEAR,
    "num_key_value_heads": 2, "head_dim": 8, "kv_channels": 8, "rotary_dim": 4, "sliding_window": 16, "is_decoder": True,
    "vocab_size": 260, "vocab_size_per_layer_input": 260, "hidden_size_per_layer_input": 8,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
OWN: Mapping[str, Mapping[str, Any]] = {  # what some kinds must have besides
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2, "n_groups": 1},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_groups": 1},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "local"], "local_attn_chunk_length": 4},
    "zaya": {"num_experts_per_tok": 1},
}
TRIES: Sequence[Mapping[str, Any]] = [
    {}, {"num_key_value_heads": 4}, {"head_dim": None}, {"head_dim": None, "num_key_value_heads": 4},
    {"hidden_size": 64, "d_model": 64, "head_dim": 16}, {"num_hidden_layers": 4, "n_layer": 4}, {"num_hidden_layers": 8},
]  # fmt: skip


def byte_tokenizer() -> Any:
    """One token for each byte, after those for padding, begin and end."""
    names = ["<pad>", "<s>", "</s>", "<over>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    core.decoder = decoders.ByteLevel()  # pyright: ignore
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def small_config(kind: str, changes: Mapping[str, Any]) -> Any:
    """A small configuration: of what could be made small, whatever this kind has, in all its parts."""
    make: Any = CONFIG_MAPPING[kind]
    usual = make()
    wanted = {**SMALL, **OWN.get(kind, {}), **changes}

    def options(config: Any) -> dict[str, Any]:
        known = {*vars(config), *config.attribute_map}
        return {name: value for name, value in wanted.items() if name in known}

    parts = {name: getattr(usual, name, None) for name in usual.sub_configs}
    return make(**options(usual), **{name: options(part) for name, part in parts.items() if part is not None})


def small_model(kind: str) -> Any:
    """A small model of a kind, whose weights are large enough for its positions and neighbours to matter."""
    problem: Exception = ValueError("not tried")
    for changes in TRIES:
        try:
            config = small_config(kind, changes)
            with torch.device("meta"):
                size = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())
            if size > LARGEST:
                raise ValueError(f"it has {size:,} parameters at least")
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.dim() > 1:
                        parameter.mul_(5)
                model(input_ids=torch.tensor([[5, 6, 7, 8]]), use_cache=False)
            return model
        except Exception as error:  # noqa: BLE001 - the next try, or the last one's reason
            problem = error
    raise problem


def plain(model: Any, prompt: Sequence[int], draft: Draft) -> np.ndarray:
    """Log-probabilities of a draft's tokens from one pass over the whole text."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*prompt, *draft.tokens]]), use_cache=False).logits[0].double() / TEMPERATURE
    law = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return law.gather(-1, torch.tensor(draft.tokens)[:, None])[:, 0].numpy()


def examined(kind: str, tokenizer: Any) -> tuple[str, str]:
    """What becomes of a kind: "right", "refused", "wrong" or "not built", and how or why."""
    try:
        model = small_model(kind)
    except Exception as error:  # noqa: BLE001 - reported in the table
        return "not built", _line(error)
    try:
        engine = LanguageEngine(Weights(model, tokenizer, name=kind), Sampling(max_tokens=12, temperature=TEMPERATURE))
        started = [engine.start(prompt) for prompt in PROMPTS for _ in range(2)]
        keys = [Key(0, i) for i in range(len(started))]
        drafts = engine.extend(engine.extend(started, keys, 5), [key.child("more") for key in keys])
        worst = 0.0
        for draft, scores in zip(drafts, engine.score(drafts), strict=True):
            wanted = plain(model, engine.prompt_tokens(draft.prompt), draft)
            worst = max(worst, float(np.abs(wanted - np.array(draft.logq)).max()), float(np.abs(wanted - scores).max()))
    except ExptiltError as error:
        return "refused", _line(error)
    network = engine.backend.network
    way = "trunks" if network.shares else "kept" if network.caches else "whole"
    return ("right", way) if worst < MOST else ("wrong", f"off by {worst:.2g} nats ({way})")


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".replace("|", "/").split())[:150]


@contextmanager
def within(seconds: int) -> Iterator[None]:
    def late(*_: object) -> NoReturn:
        raise TimeoutError(f"more than {seconds} seconds")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def table(found: Mapping[str, tuple[str, str]]) -> str:
    """The page's part: numbers, those that are right by their way, and the others with their reason."""
    count = Counter(outcome for outcome, _ in found.values())
    built = len(found) - count["not built"]
    lines = [
        f"transformers {transformers.__version__}, torch {torch.__version__}: {len(found)} architectures, of which {built} could "
        f"be built small. Right: {count['right']}; refused: {count['refused']}; wrong: {count['wrong']}.",
        "",
        "| | architectures |",
        "|---|---|",
    ]
    words = {"trunks": "right, over trunks that rows share", "kept": "right, key-values row by row", "whole": "right, read whole"}
    for way, title in words.items():
        kinds = [kind for kind, result in found.items() if result == ("right", way)]
        lines.append(f"| {title} ({len(kinds)}) | {', '.join(kinds)} |")
    lines += ["", "| architecture | | why |", "|---|---|---|"]
    lines += [f"| {kind} | {outcome} | {why} |" for kind, (outcome, why) in found.items() if outcome != "right"]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", help="model types of transformers; all of them by default")
    parser.add_argument("--write", action="store_true", help="write the table into docs/models.md")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("exptilt").setLevel(logging.ERROR)
    tokenizer = byte_tokenizer()
    found: dict[str, tuple[str, str]] = {}
    for kind in options.kinds or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        try:
            with within(SECONDS):
                found[kind] = examined(kind, tokenizer)
        except TimeoutError as error:
            found[kind] = ("not built", str(error))
        except Exception as error:  # noqa: BLE001 - a failure of ours, reported in the table
            found[kind] = ("wrong", _line(error))
        print(f"{kind:28s} {found[kind][0]:10s} {found[kind][1]}", flush=True)
    page = table(found)
    print("\n" + page)
    if options.write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{page}\n{END}{rest.partition(END)[2]}")
    return int(any(outcome == "wrong" for outcome, _ in found.values()))


if __name__ == "__main__":
    sys.exit(main())
