"""A tokenizer's files that somebody else may have written, looked at before the tokenizer is made.

Its rules are data, and run in native code over every text: what makes a text longer, or takes longer on it than its
length says, is bounded here.
"""

import base64
import binascii
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from cascadexml.checked_json import object_of, read_json, shown
from cascadexml.errors import FormatError
from cascadexml.rankers.cascade.encoder import load_tokenizer

GROWTH = 16
"""So many times longer a text may become before it is cut into tokens."""
LONG = 32
"""Characters of what is put before or after a piece of a text."""
WORD = 1000
"""Characters of a word that is looked up piece by piece, in a time that grows with their square."""
MAPPED = 256
"""Bytes that one character may be replaced by in a table of SentencePiece."""
SPECIALS = 64
"""Tokens that may be put around every text."""
LABELS = 10**6
_AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix", "prefix", "suffix", "prepend", "replacement", "content")
_HARMLESS = ("special_tokens_map_file",)


def load_packed_tokenizer(folder: Path, max_length: int, rows: int | None) -> PreTrainedTokenizerBase:
    """A tokenizer that lies beside the network that it made tokens for.

    Args:
        folder: what `save_tokenizer` wrote.
        max_length: tokens that a text will be cut to.
        rows: tokens that the network knows; None where that shows when it runs.

    Raises:
        EncoderError: it cannot be read.
        FormatError: it holds what would make a text far longer, or makes tokens that the network does not know.
    """
    try:
        _check_files(folder)
    except (OSError, ValueError) as error:
        raise FormatError(f"{folder} holds no tokenizer that can be trusted ({error}): make it again.") from None
    tokenizer = load_tokenizer(str(folder))
    specials = tokenizer.num_special_tokens_to_add()
    if not specials < max_length <= tokenizer.model_max_length:
        raise FormatError(
            f"{folder.parent} cuts texts to {max_length} tokens, expected from {specials + 1} to "
            f"{tokenizer.model_max_length}, which its tokenizer gives: make it again."
        )
    greatest = greatest_id(tokenizer)
    if rows is not None and greatest >= rows:
        raise FormatError(f"{folder} gives the token {greatest}, the network knows {rows}: make it again.")
    return tokenizer


def greatest_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The greatest id that a tokenizer gives, those around every text and of padding included."""
    around: list[int] = tokenizer("")["input_ids"]
    return max(*tokenizer.get_vocab().values(), int(tokenizer.pad_token_id), *around, 0)


def _check_files(folder: Path) -> None:
    """Refuse, by OSError or ValueError, what would cost without end, or lead elsewhere."""
    for file in sorted(folder.glob("*.json")):
        content = read_json(file)
        if file.name == "tokenizer.json":
            _check_rules(object_of(content))
        elif file.name in ("tokenizer_config.json", "config.json"):
            _check_settings(object_of(content), file.name)


def _check_settings(settings: Mapping[str, Any], name: str) -> None:
    for key, value in settings.items():
        if key == "auto_map" or (key.endswith("_file") and key not in _HARMLESS):
            if value is not None:
                raise ValueError(f"{name}: {key} is {shown(value)}, which would lead elsewhere")
        elif key == "num_labels" and (type(value) is not int or not 0 <= value <= LABELS):
            raise ValueError(f"{name}: {key} is {shown(value)}, expected at most {LABELS}")
        elif key == "model_max_length" and (type(value) not in (int, float) or value < 1):
            raise ValueError(f"{name}: {key} is {shown(value)}, expected a number of tokens")


def _check_rules(rules: Mapping[str, Any]) -> None:
    growth = 1.0
    for part in _parts(rules.get("normalizer")):
        growth *= _growth(part)
    if growth > GROWTH:
        raise ValueError(f"its normalizer may make a text {growth:g} times longer, expected at most {GROWTH}")
    for part in _parts({key: value for key, value in rules.items() if key not in ("added_tokens", "decoder")}):
        for key in _AFFIXES:
            if isinstance(part.get(key), str) and len(part[key]) > LONG:
                raise ValueError(f"its {key} has {len(part[key])} characters, expected at most {LONG}")
        longest = part.get("max_input_chars_per_word", 0)
        if type(longest) is not int or longest > WORD:
            raise ValueError(f"max_input_chars_per_word is {shown(longest)}, expected at most {WORD}")
        if part.get("dropout"):
            raise ValueError(f"dropout is {shown(part['dropout'])}, expected none")
        if len(part["ids"] if isinstance(part.get("ids"), list) else ()) > SPECIALS:
            raise ValueError(f"a special token stands for {len(part['ids'])}, expected at most {SPECIALS}")
    processor = rules.get("post_processor")
    around = processor.get("single") if isinstance(processor, Mapping) else None
    if isinstance(around, list) and len(around) > SPECIALS:
        raise ValueError(f"{len(around)} tokens stand around every text, expected at most {SPECIALS}")


def _parts(rules: Any) -> Iterator[Mapping[str, Any]]:
    """All objects in rules, the outer first; a vocabulary, which is large and holds none, is passed over."""
    if isinstance(rules, Mapping):
        yield rules
        for key, value in rules.items():
            if key not in ("vocab", "merges"):
                yield from _parts(value)
    elif isinstance(rules, list):
        for value in rules:
            yield from _parts(value)


def _growth(part: Mapping[str, Any]) -> float:
    """How many times longer one rule may make a text."""
    content = part.get("content")
    if part.get("type") == "Replace" and isinstance(content, str):
        pattern = object_of(part, "pattern")
        if isinstance(pattern.get("String"), str):
            if not pattern["String"]:
                raise ValueError("its normalizer replaces nothing by something")
            return max(1.0, len(content) / len(pattern["String"]))
        # A regular expression may be found between any two characters.
        return 1.0 + len(content)
    table = part.get("precompiled_charsmap")
    if isinstance(table, str):
        _check_table(table)
    return 1.0


def _check_table(table: str) -> None:
    """SentencePiece's: the size of a tree, the tree, and what characters are replaced by, each text ended by 0."""
    try:
        data = base64.b64decode(table, validate=True)
        (size,) = struct.unpack_from("<I", data)
        data[4 + size :].decode("utf-8")
    except (binascii.Error, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"precompiled_charsmap is no table ({error})") from None
    if size % 4 or size > len(data) - 4:
        raise ValueError(f"precompiled_charsmap claims a tree of {size} bytes in a table of {len(data)}")
    longest = max(map(len, data[4 + size :].split(b"\0")))
    if longest > MAPPED:
        raise ValueError(f"precompiled_charsmap replaces a character by {longest} bytes, expected at most {MAPPED}")
