"""Checkpoints of transformers, as engines and reward models read them: dtype, device, no progress bars, plain errors, digests."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from typing import Any

import torch
import transformers
from transformers.quantizers.auto import AutoQuantizationConfig

from exptilt.errors import ModelError, install

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CAUSAL = "a causal language model"
BUFFERS = re.compile(r"(attn|attention)\.(masked_)?bias$|inv_freq$|position_ids$")  # old files have it, and it is not a weight
DIGEST_VALUES = 64  # as many values of each tensor go into the digest of the weights


@dataclass(frozen=True)
class Repository:
    """Which files of a hub's repository or of a folder are read, and whether code among them may run.

    revision: a branch, tag or commit of the hub's repository; None takes its main branch.
    subfolder: the folder that the model is in.
    token: the hub's access token; None takes the one that the hub's own login keeps.
    trust_remote_code: whether to run Python code that comes with the model; off unless you say so, and never asked for.
    """

    revision: str | None = None
    subfolder: str | None = None
    token: str | None = field(default=None, repr=False)
    trust_remote_code: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """As arguments of `from_pretrained`. Without `trust_remote_code` transformers asks on the terminal."""
        return {"trust_remote_code": self.trust_remote_code, **_given(self, "revision", "subfolder", "token")}


@dataclass(frozen=True)
class Form:
    """In which form a model is read, and where it is put.

    dtype: "float32", "bfloat16", "float16", or "auto" for that of the files; None takes float32 on a CPU and "auto" elsewhere.
    device: such as "cpu" or "cuda:1"; None takes CUDA where there is one, else the CPU.
    device_map: which parts go to which device, such as "auto", instead of one `device`; needs accelerate.
    attn_implementation: how attention is computed; None leaves it to transformers. Only "sdpa" lets rows share what they read.
    quantization_config: of transformers, or its values as a mapping, to quantise weights while they are read. Models whose files
        are quantised already need none, but the package that quantised them.
    """

    dtype: str | None = None
    device: str | None = None
    device_map: Any = None
    attn_implementation: str | None = None
    quantization_config: Any = None

    def __post_init__(self) -> None:
        if self.dtype not in (None, "auto"):
            dtype_named(str(self.dtype))
        check_device(self.device)
        if self.device is not None and self.device_map is not None:
            raise ValueError(f"device={self.device!r} and device_map={self.device_map!r} both say where the model goes: give one")

    @property
    def home(self) -> str:
        """The one device, where no map is given."""
        return device_or_default(self.device)

    def options(self, quantised: bool) -> dict[str, Any]:
        """As arguments of `from_pretrained`. quantised: whether the weights are, which go to their device while they are read."""
        found = {"dtype": self._dtype(), **_given(self, "device_map", "attn_implementation")}
        if quantised and self.device_map is None and self.home != "cpu":
            found["device_map"] = {"": self.home}
        if self.quantization_config is not None:
            found["quantization_config"] = _quantization(self.quantization_config)
        return found

    def _dtype(self) -> Any:
        if self.dtype is None:
            return torch.float32 if self.home == "cpu" else "auto"
        return "auto" if self.dtype == "auto" else dtype_named(self.dtype)


def taken(kind: Any, options: dict[str, Any]) -> Any:
    """A record of the options that are its fields, which are taken out."""
    return kind(**{each.name: options.pop(each.name) for each in fields(kind) if each.name in options})


def _given(record: Any, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(record, name)) is not None}


def _quantization(given: Any) -> Any:
    """A configuration of transformers out of its values, as a command line gives them."""
    if not isinstance(given, Mapping):
        return given
    try:
        return AutoQuantizationConfig.from_dict(dict(given))
    except (ValueError, TypeError) as error:
        raise ValueError(f"quantization_config={given!r:.80} is not one of transformers: {error}") from error


def dtype_named(name: str) -> torch.dtype:
    """The dtype that a user calls "float32", "bfloat16" or "float16"."""
    if name not in DTYPES:
        raise ValueError(f"dtype={name!r} is unknown: give one of {', '.join(DTYPES)}")
    return DTYPES[name]


def dtype_name(model: Any) -> str:
    """What a user calls the dtype of a model."""
    return str(model.dtype).removeprefix("torch.")


def check_device(device: str | None) -> None:
    """Refuse the name of a device that torch does not have."""
    try:
        torch.device("cpu" if device is None else device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r} is not a device of torch: give one such as cpu, cuda or cuda:1") from error


def device_or_default(device: str | None) -> str:
    """The device asked for, else CUDA where there is one, else the CPU."""
    check_device(device)
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def reading(name: str, kind: str = CAUSAL) -> Iterator[None]:
    """Read files of transformers without progress bars and notices, and turn whatever it raises into one ModelError.

    name: what the user calls the model.
    kind: what it must be.
    """
    try:
        with quiet():
            yield
    except ImportError as error:
        raise ModelError(
            f"{name} needs a package that is missing: {' '.join(str(error).split())[:400]} {install('hf,gguf')} brings "
            "what models need whose weights are not quantised."
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split())[:400]
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{name} comes with Python code of its own, which is not run here: give trust_remote_code=True if you "
                "trust its files and this kind of model has that option, or a model of a kind that transformers knows"
            ) from error
        raise ModelError(
            f"{name} cannot be read by transformers: {type(error).__name__}: {reason} "
            f"Check the name, the files and, for a hub id, the connection; the model must be {kind}."
        ) from error


def read_whole(
    kind: Any, source: Any, name: str, words: str, *, form: Form, files: Repository, spare: bool = False, config: Any = None
) -> Any:
    """The model that `kind.from_pretrained` reads from a hub id or a folder, with every weight from there and none left over.

    transformers draws missing weights at random, a whole output layer for instance, and ignores unknown ones, with a
    log line at most.
    words: what the model must be.
    spare: whether weights may be left over, as those of another head beside the one wanted.
    config: the model's, where it has been read already.
    Raises ModelError.
    """
    with reading(name, words):
        config = config or transformers.AutoConfig.from_pretrained(source, **files.options)
        quantised = form.quantization_config is not None or getattr(config, "quantization_config", None) is not None
        options = {**files.options, **form.options(quantised)}
        model, report = kind.from_pretrained(source, output_loading_info=True, **options)
    missing = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    buffers = {key for key, _ in model.named_buffers()}
    unknown = sorted(key for key in report["unexpected_keys"] if key not in buffers and not BUFFERS.search(key))
    saved = " and ".join(model.config.architectures or ["something else"])
    if missing:
        raise ModelError(
            f"{name} has no weights for {_some(missing)}, which {type(model).__name__} needs and which would be drawn at random. "
            f"Its files were saved as {saved}: give a model that was saved with all its weights."
        )
    if unknown and not spare:
        raise ModelError(
            f"{name} has weights that {type(model).__name__} does not know: {_some(unknown)}. Its files were saved as {saved}, "
            f"and without these it may be another model. If they do not matter, read it with {kind.__name__} and save it anew."
        )
    if "device_map" in options or model.device == torch.device(form.home):
        return model
    with reading(name, words):
        return model.to(form.home)


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and notices off the terminal."""
    logging_of = transformers.utils.logging
    level, bars = logging_of.get_verbosity(), logging_of.is_progress_bar_enabled()
    logging_of.set_verbosity_error()
    logging_of.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of one library about another
            yield
    finally:
        logging_of.set_verbosity(level)
        if bars:
            logging_of.enable_progress_bar()


def digest(model: Any, more: str = "") -> str:
    """A digest of a model's configuration and of some values of each tensor: the same wherever the files lie.

    more: what else decides what the model computes.
    """
    config = model.config.to_diff_dict()
    shape = sorted((key, value) for key, value in config.items() if key not in ("transformers_version", "dtype"))
    return tensors_digest(shape, model.state_dict(), more)


def tensors_digest(shape: Any, tensors: Mapping[str, Any], more: str = "") -> str:
    """A digest of what fixes a network's shape, as it prints itself, and of some values of each tensor."""
    found = blake2b(repr(shape).encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        flat = _plain(tensor).reshape(-1)
        some = flat[:: max(1, len(flat) // DIGEST_VALUES)].double().cpu().numpy()
        found.update(f"{name} {tuple(tensor.shape)}".encode() + some.tobytes())
    found.update(more.encode())
    return found.hexdigest()


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of numbers; those of packages for quantised weights are of kinds of their own."""
    plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and not tensor.is_quantized
    return tensor.detach() if plain else tensor.detach().dequantize()
