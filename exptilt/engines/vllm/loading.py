"""Start vLLM in this process for a model: a hub id, or a folder as `save_pretrained` writes it.

Unless the environment says otherwise (VLLM_ENABLE_V1_MULTIPROCESSING=1), vLLM's engine runs in this very process and
starts no other for one device, so that scripts need no `if __name__ == "__main__"`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import transformers

from exptilt.engines.checkpoints import reading
from exptilt.engines.text import Text, end_ids
from exptilt.engines.vllm.backend import Model

OWN_OPTIONS = frozenset(
    {"model", "tokenizer", "dtype", "hf_token", "max_num_seqs", "logprobs_mode", "enable_prefix_caching", "skip_tokenizer_init"}
)
SPEED_OPTIONS = frozenset(  # change the speed but not the distribution: a run may be resumed with others
    {"tensor_parallel_size", "pipeline_parallel_size", "gpu_memory_utilization", "kv_cache_memory_bytes", "block_size"}
    | {"max_model_len", "max_num_batched_tokens", "enforce_eager", "disable_log_stats", "enable_chunked_prefill"}
    | {"trust_remote_code"}
)
HINTS = {
    "adapter": "merge the adapter into the model and save that",
    "merge": "merge the adapter into the model and save that",
    "device_map": "give tensor_parallel_size or pipeline_parallel_size",
    "quantization_config": "give quantization",
    "attn_implementation": "vLLM chooses its own",
    "rows_memory": "give gpu_memory_utilization",
    "memory": "give gpu_memory_utilization",
    "subfolder": "give the path of that folder",
    "fast": "it is of hf: models",
    "tokenizer": "save the tokenizer beside the model",
}


class VLLM:
    """vLLM's engine as a `Driver`."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def add(self, name: str, tokens: Sequence[int], parameters: Mapping[str, Any], *, gradual: bool) -> None:
        from vllm import SamplingParams, TokensPrompt  # pyright: ignore[reportAttributeAccessIssue]
        from vllm.sampling_params import RequestOutputKind  # pyright: ignore[reportMissingImports]

        kind = RequestOutputKind.DELTA if gradual else RequestOutputKind.FINAL_ONLY
        wanted = SamplingParams(**parameters, output_kind=kind, detokenize=False, flat_logprobs=True)
        self.engine.add_request(name, TokensPrompt(prompt_token_ids=list(tokens)), wanted)

    def step(self) -> Sequence[Any]:
        return self.engine.step()

    def abort(self, names: Sequence[str]) -> None:
        self.engine.abort_request(list(names))

    def close(self) -> None:
        self.engine.engine_core.shutdown()


def read_model(
    source: str | Path,
    *,
    name: str,
    dtype: str | None = None,
    max_rows: int | None = None,
    token: str | None = None,
    **options: Any,
) -> Model:
    """Load a model into vLLM.

    dtype: None takes float32 on a CPU, else "auto", that of the files.
    token: the hub's access token.
    max_rows: sequences that decode at once (vLLM's max_num_seqs; None: vLLM's default). options: anything else that
    vLLM's engine takes, such as tensor_parallel_size, gpu_memory_utilization, max_model_len, quantization,
    enforce_eager or block_size (sharing of prefixes goes by whole blocks). Those that may change the distribution are part of
    `settings`.

    Raises ModelError where the model cannot be read, ValueError for options that vLLM does not have.
    """
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from vllm import EngineArgs, LLMEngine  # pyright: ignore[reportAttributeAccessIssue]

    given = _arguments(options, dtype, max_rows, token)
    hub = {name: options.get(name) for name in ("revision", "trust_remote_code") if options.get(name)}
    with reading(name):
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, token=token, **{"trust_remote_code": False, **hub})
        engine = LLMEngine.from_engine_args(EngineArgs(model=str(source), **given))
        generation = engine.model_config.try_get_generation_config()
    config = engine.model_config
    ends = end_ids(config.hf_text_config.eos_token_id, generation.get("eos_token_id"), tokenizer.eos_token_id)
    return Model(
        VLLM(engine),
        Text(tokenizer, ends),
        name=name,
        context=config.max_model_len,
        vocabulary=config.get_vocab_size(),
        max_rows=engine.vllm_config.scheduler_config.max_num_seqs,
        generation=generation,
        settings={
            "dtype": str(config.dtype).removeprefix("torch."),
            "options": {key: str(options[key]) for key in sorted(options.keys() - SPEED_OPTIONS)},
        },
    )


def _arguments(options: Mapping[str, Any], dtype: str | None, max_rows: int | None, token: str | None) -> dict[str, Any]:
    """What vLLM's engine is made with, apart from the model. Raises ValueError for options that it does not have."""
    from vllm import EngineArgs  # pyright: ignore[reportAttributeAccessIssue]
    from vllm.platforms import current_platform  # pyright: ignore[reportMissingImports]

    known = {each.name for each in fields(EngineArgs)} - OWN_OPTIONS
    if unknown := sorted(set(options) - known):
        hints = "".join(f" For {option}: {HINTS[option]}." for option in unknown if option in HINTS)
        raise ValueError(f"{', '.join(unknown)}: vLLM has no such option, or exptilt sets it itself; leave it out.{hints}")
    on_cpu = current_platform.is_cpu()
    given: dict[str, Any] = {"disable_log_stats": True, **options, "dtype": dtype or ("float32" if on_cpu else "auto")}
    if token:
        given["hf_token"] = token
    if on_cpu:
        # A prompt read in two parts rewinds the request's generator, which those of the CPU cannot: vLLM 0.32 crashes.
        given.setdefault("enable_chunked_prefill", False)
    if max_rows is not None:
        given["max_num_seqs"] = max_rows
    return given | {"logprobs_mode": "processed_logprobs", "enable_prefix_caching": True, "skip_tokenizer_init": True}
