"""Write a Llama of transformers, such as the bundled tiny model, as a GGUF file of float32 numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import exptilt

TINY = Path(exptilt.__file__).parent / "models" / "tiny"


def tiny_gguf(path: Path) -> Path:
    """Write the bundled model "tiny" to `path`. Load it with tokenizer=TINY: llama.cpp knows no pre-tokenizer like its own."""
    return write_gguf(TINY, path)


def write_gguf(folder: Path, path: Path) -> Path:
    """Write the Llama and the byte-level tokenizer of a folder to a GGUF file."""
    from gguf import GGUFWriter
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(folder)
    writer = GGUFWriter(path, "llama")
    writer.add_name(folder.name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, AutoTokenizer.from_pretrained(folder), folder)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in AutoModelForCausalLM.from_pretrained(folder, dtype="float32").state_dict().items():
        if name != "lm_head.weight" or not config.tie_word_embeddings:
            writer.add_tensor(_tensor_name(name), _rearranged(tensor.numpy(), heads.get(name.split(".")[-2])))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer, tokenizer, folder: Path) -> None:
    from gguf import TokenType

    core = json.loads((folder / "tokenizer.json").read_text())
    special = {token["id"] for token in core["added_tokens"] if token["special"]}
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if i in special else TokenType.NORMAL for i in range(len(tokens))])
    # llama.cpp refuses a file without merges; this one can never apply.
    writer.add_token_merges([" ".join(pair) for pair in core["model"]["merges"]] or ["<pad> <pad>"])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(core["post_processor"] is not None)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _tensor_name(name: str) -> str:
    from gguf import MODEL_ARCH, get_tensor_name_map

    found = get_tensor_name_map(MODEL_ARCH.LLAMA, 64).get_name(name, try_suffixes=(".weight",))
    assert found is not None, name
    return found


def _rearranged(weights: np.ndarray, heads: int | None) -> np.ndarray:
    """Queries and keys with the two halves of each head interleaved, as llama.cpp turns them by position."""
    if heads is None:
        return weights
    halves = weights.reshape(heads, 2, -1, weights.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weights.shape)
