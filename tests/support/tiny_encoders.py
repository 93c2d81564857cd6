"""Tiny encoders of several architectures, for tests: random weights and small synthetic vocabularies.

Each is a folder as `save_pretrained` leaves it, so that it goes through the same Auto classes as a model of the hub.
"""

import itertools
import json
import lzma
import re
from collections import Counter
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase

ARCHITECTURES = ("bert", "roberta", "mpnet", "xlm-roberta")
MAX_LENGTH = 128
_NAMES = {"bert": "Bert", "roberta": "Roberta", "mpnet": "MPNet", "xlm-roberta": "XLMRoberta"}
_SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample" / "train.jsonl.xz"


def make_tiny_encoder(architecture: str, folder: Path, layers: int = 4) -> Path:
    """Save an encoder of hidden size 32 with random weights (seed 0) and its tokenizer into `folder`; return it.

    The vocabulary holds the commonest words of a few real records, and single characters for all others.
    """
    tokenizer = _tokenizer(architecture)
    tokenizer.save_pretrained(folder)
    config = getattr(transformers, f"{_NAMES[architecture]}Config")(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=64,
        # RoBERTa's kin number positions from pad_token_id + 1 on.
        max_position_embeddings=MAX_LENGTH + tokenizer.pad_token_id + 1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        getattr(transformers, f"{_NAMES[architecture]}Model")(config).save_pretrained(folder)
    return folder


def _tokenizer(architecture: str) -> PreTrainedTokenizerBase:
    with lzma.open(_SAMPLE, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in itertools.islice(lines, 100)]
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    counts = Counter(re.findall(r"\w\w+", " ".join(texts).lower()))
    words = sorted(counts, key=lambda word: (-counts[word], word))[:400]
    pieces = [*letters, *(f"##{letter}" for letter in letters), *words]
    kind = getattr(transformers, f"{_NAMES[architecture]}Tokenizer")
    if architecture == "bert":
        return kind(_numbered(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]), model_max_length=MAX_LENGTH)
    if architecture == "mpnet":
        return kind(_numbered(["<s>", "<pad>", "</s>", "[UNK]", *pieces, "<mask>"]), model_max_length=MAX_LENGTH)
    if architecture == "xlm-roberta":
        scored = [(f"▁{word}", -5.0 - rank / 100) for rank, word in enumerate(words)]
        scored += [(letter, -15.0) for letter in ["▁", *letters]]
        specials = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
        return kind([*specials, *scored, ("<mask>", 0.0)], model_max_length=MAX_LENGTH)
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    learnt.train_from_iterator(texts, trainer)
    model = json.loads(learnt.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    return kind(model["vocab"] | {"<mask>": len(model["vocab"])}, merges, model_max_length=MAX_LENGTH)


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}
