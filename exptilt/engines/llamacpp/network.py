"""The model inside llama.cpp: evaluate tokens of many sequences at once, whose key-values may share cells.

A *cell* holds the key-values of one token. With llama.cpp's unified memory a cell may belong to several sequences, so a
common prefix is stored once: `branch` adds cells to a sequence without copying numbers.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections import deque
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import llama_cpp  # pyright: ignore[reportMissingImports]
import numpy as np

from exptilt.engines.distribution_numpy import Logits
from exptilt.errors import ModelError

SEQUENCES = 256  # as many as llama.cpp can tell apart
BATCH_TOKENS = 2048  # tokens handed to llama.cpp at once
BLOCK_TOKENS = 512  # of these, tokens it evaluates at once
OUTPUTS = 256  # tokens whose logits one evaluation returns at most
DEFAULT_CELLS = 2**13  # on a CPU more rows at once bring nothing: every token of a batch looks at the cells of all
DEFAULT_MEMORY = 2**30  # bytes
ERROR_LEVEL = 4  # of llama.cpp's log
DTYPES = {
    "float32": (llama_cpp.GGML_TYPE_F32, 4),
    "float16": (llama_cpp.GGML_TYPE_F16, 2),
}


class Feed(NamedTuple):
    """Tokens that a sequence is to be extended by: the first at position `start`; `logits` says whether to return theirs."""

    sequence: int
    start: int
    tokens: Sequence[int]
    logits: bool


class Network:
    """A GGUF model with its key-value memory. Not thread-safe: the scheduler's worker calls it.

    file: the GGUF file.
    memory: bytes for the key-values of all sequences, taken at once (None: those of 8192 tokens, 1 GiB at most).
    dtype: of the key-values.
    device: "cpu", or None for GPUs where llama.cpp was built with them.
    threads: None takes OMP_NUM_THREADS or all cores.
    Raises ModelError where the file cannot be read or the model is not made of attention over all tokens.
    """

    def __init__(self, file: Path, name: str, *, memory: int | None, dtype: str, device: str | None, threads: int | None) -> None:
        _start_library()
        self.name = name
        self.dtype = dtype
        options = llama_cpp.llama_model_default_params()
        options.n_gpu_layers = 0 if device == "cpu" else -1
        self.model: Any = llama_cpp.llama_model_load_from_file(os.fsencode(file), options)
        if not self.model:
            raise ModelError(f"{name} cannot be read by llama.cpp: {_reason()}. Check that it is a whole GGUF file.")
        weakref.finalize(self, llama_cpp.llama_model_free, self.model)
        self._check_architecture()
        self.vocabulary_handle: Any = llama_cpp.llama_model_get_vocab(self.model)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(self.vocabulary_handle)
        per_cell = self._token_bytes(dtype)
        self.cells = min(DEFAULT_CELLS, DEFAULT_MEMORY // per_cell) if memory is None else memory // per_cell
        if self.cells < 1:
            raise ValueError(f"memory={memory} bytes hold no token of {name}, which takes {per_cell}: give more")
        self.context = min(self.cells, llama_cpp.llama_model_n_ctx_train(self.model))
        self._context = self._make_context(dtype, device, threads)
        # Registered later, so it is called before the model is freed.
        self._free = weakref.finalize(self, llama_cpp.llama_free, self._context)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = _Batch(BATCH_TOKENS)

    def _check_architecture(self) -> None:
        model = self.model
        if llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model):
            raise ModelError(
                f"{self.name} keeps a recurrent state, which cannot be shared between responses. "
                "Choose a model with attention layers only."
            )
        if not llama_cpp.llama_model_has_decoder(model) or llama_cpp.llama_model_has_encoder(model):
            raise ModelError(f"{self.name} is not a causal language model: choose one that writes from left to right.")
        if llama_cpp.llama_model_is_diffusion(model):
            raise ModelError(f"{self.name} is a masked-diffusion model: load it with 'mdlm:' from its original files.")
        if window := llama_cpp.llama_model_n_swa(model):
            raise ModelError(
                f"{self.name} attends only to the last {window} tokens in some layers, and llama.cpp drops what comes before: "
                "prefixes cannot be shared. Load the model with 'hf:' or 'gguf:'."
            )

    def _token_bytes(self, dtype: str) -> int:
        """Bytes of one cell."""
        model = self.model
        heads, kept_heads = llama_cpp.llama_model_n_head(model), llama_cpp.llama_model_n_head_kv(model)
        default = llama_cpp.llama_model_n_embd(model) // heads
        kind = self.metadata("general.architecture")
        sizes = [int(self.metadata(f"{kind}.attention.{part}_length") or default) for part in ("key", "value")]
        return llama_cpp.llama_model_n_layer(model) * kept_heads * sum(sizes) * DTYPES[dtype][1]

    def _make_context(self, dtype: str, device: str | None, threads: int | None) -> Any:
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = self.cells
        options.n_batch, options.n_ubatch = BATCH_TOKENS, BLOCK_TOKENS
        options.n_seq_max = SEQUENCES
        options.n_outputs_max = OUTPUTS
        options.n_threads = options.n_threads_batch = threads or _default_threads()
        options.type_k = options.type_v = DTYPES[dtype][0]
        # Flash attention computes in float16 whatever the key-values are, and skips the cells of other sequences.
        flash = dtype == "float16"
        options.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO if flash else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        options.kv_unified = True
        options.offload_kqv = options.op_offload = device != "cpu"
        options.no_perf = True
        context = llama_cpp.llama_init_from_model(self.model, options)
        if not context:
            raise ModelError(f"llama.cpp cannot make room for {self.cells} tokens of {self.name}: give a smaller memory=")
        return context

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the file's chat template, or None."""
        source = llama_cpp.llama_model_chat_template(self.model, None)
        return source.decode() if source else None

    def metadata(self, key: str) -> str | None:
        """A value of the file's header as text, or None."""
        buffer = ctypes.create_string_buffer(2**16)
        length = llama_cpp.llama_model_meta_val_str(self.model, key.encode(), buffer, len(buffer))
        return buffer.value.decode() if length >= 0 else None

    def evaluate(self, feeds: Sequence[Feed]) -> Logits:
        """Extend sequences: at most BATCH_TOKENS tokens, of at most OUTPUTS the logits.

        Returns these logits in the order of the feeds, float32 [tokens, vocabulary]: a view that the next call overwrites.
        Raises ModelError where llama.cpp fails.
        """
        outputs = self._batch.fill(feeds)
        code = llama_cpp.llama_decode(self._context, self._batch.struct)
        if code:
            raise ModelError(
                f"llama.cpp failed to evaluate {self._batch.struct.n_tokens} tokens of {self.name} (code {code}): {_reason()}"
            )
        if not outputs:
            return np.zeros((0, self.vocabulary), dtype=np.float32)
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits(self._context), shape=(outputs, self.vocabulary))

    def branch(self, source: int, target: int, length: int) -> None:
        """Let the empty sequence `target` begin with the first `length` tokens of `source`."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def forget(self, sequence: int) -> None:
        """Empty a sequence; cells that no other one shares become free."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def close(self) -> None:
        """Free the key-values; the weights, which are a mapped file, go with this object. No more may be evaluated."""
        self._free()


class _Batch:
    """llama.cpp's record of tokens to evaluate, over arrays of numpy."""

    def __init__(self, size: int) -> None:
        self.tokens, self.positions, self.sequences, self.ones = (np.ones(size, dtype=np.int32) for _ in range(4))
        self.wanted = np.zeros(size, dtype=np.int8)
        pointer = ctypes.POINTER(ctypes.c_int32)
        begin = self.sequences.ctypes.data
        self._pointers = (pointer * size)(*(ctypes.cast(begin + 4 * i, pointer) for i in range(size)))
        self.struct = llama_cpp.llama_batch(
            n_tokens=0,
            token=self.tokens.ctypes.data_as(pointer),
            embd=None,
            pos=self.positions.ctypes.data_as(pointer),
            n_seq_id=self.ones.ctypes.data_as(pointer),
            seq_id=ctypes.cast(self._pointers, ctypes.POINTER(pointer)),
            logits=self.wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(self, feeds: Sequence[Feed]) -> int:
        """Write the tokens of all feeds; returns the number of those whose logits are wanted."""
        counts = np.array([len(feed.tokens) for feed in feeds])
        ends = counts.cumsum()
        total = int(ends[-1])
        self.tokens[:total] = np.concatenate([np.asarray(feed.tokens, dtype=np.int32) for feed in feeds])
        firsts = np.array([feed.start for feed in feeds]) - (ends - counts)
        self.positions[:total] = np.arange(total) + np.repeat(firsts, counts)
        self.sequences[:total] = np.repeat([feed.sequence for feed in feeds], counts)
        self.wanted[:total] = np.repeat([feed.logits for feed in feeds], counts)
        self.struct.n_tokens = total
        return int(self.wanted[:total].sum())


def _default_threads() -> int:
    """OMP_NUM_THREADS, as torch takes it, or else all cores."""
    return int(os.environ.get("OMP_NUM_THREADS", "").split(",")[0] or os.cpu_count() or 1)


_complaints: deque[str] = deque(maxlen=3)  # the latest errors that llama.cpp logged


@llama_cpp.llama_log_callback
def _listen(level: int, text: bytes, _: Any) -> None:
    if level == ERROR_LEVEL:
        _complaints.append(" ".join(text.decode(errors="replace").split()))


@cache
def _start_library() -> None:
    """Start llama.cpp, and keep its log, which names every tensor of a model, off standard error."""
    llama_cpp.llama_log_set(_listen, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()


def _reason() -> str:
    return "; ".join(_complaints) or "no reason given"
