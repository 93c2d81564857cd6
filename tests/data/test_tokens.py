"""Token stores against the tokenizers themselves; batches and buckets against plain Python."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from cascadexml.bundle import MANIFEST
from cascadexml.data.corpus import Corpus
from cascadexml.data.tokens import FORMAT, Tokens, TokenStore, length_bucketed, tokenize, tokenizer_fingerprint
from cascadexml.errors import ConfigError, DataError, EncoderError, FormatError
from cascadexml.rankers.cascade.encoder import BUNDLED, load_tokenizer
from tests.support.tiny_encoders import ARCHITECTURES, MAX_LENGTH, make_tiny_encoder

ODD_TEXTS = ["", " ", "a", "Ünïcödé 数学 🙂 \u200b", "tab\tnew\nline", "[SEP] </s> <pad>", "word " * 500]


@pytest.fixture(scope="session")
def encoder_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folders = {name: str(make_tiny_encoder(name, tmp_path_factory.mktemp(name))) for name in ARCHITECTURES}
    return folders | {"bundled": BUNDLED}


@pytest.fixture(scope="session")
def bert(encoder_folders: dict[str, str]) -> transformers.PreTrainedTokenizerBase:
    return load_tokenizer(encoder_folders["bert"])


def plain(texts: list[str]) -> list[str]:
    """White space alone is no text, though some tokenizers know tokens for it."""
    return ["" if text.isspace() else text for text in texts]


def all_ids(store: Tokens) -> list[list[int]]:
    batch = store.batch(np.arange(len(store)))
    return [ids[mask == 1].tolist() for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]


@pytest.mark.parametrize("name", [*ARCHITECTURES, "bundled"])
def test_store_holds_what_the_tokenizer_gives(
    name: str, encoder_folders: dict[str, str], small_corpus: Corpus, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(encoder_folders[name])
    texts = [*small_corpus.splits["train"].texts, *ODD_TEXTS]
    store = TokenStore.build(tmp_path / "tokens", texts, tokenizer, 24)
    one_by_one = [tokenizer(text, truncation=True, max_length=24)["input_ids"] for text in plain(texts)]
    assert all_ids(store) == one_by_one
    assert all_ids(tokenize(texts, tokenizer, 24)) == one_by_one
    assert store.lengths.tolist() == [len(ids) for ids in one_by_one]
    assert max(store.lengths) == 24

    whole = tokenizer(plain(texts), truncation=True, max_length=24, padding=True, return_tensors="pt")
    batch = store.batch(np.arange(len(texts)))
    assert batch.input_ids.equal(whole["input_ids"])
    assert batch.attention_mask.equal(whole["attention_mask"])


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [("bert", "[CLS]", "[SEP]"), ("roberta", "<s>", "</s>"), ("mpnet", "<s>", "</s>"), ("xlm-roberta", "<s>", "</s>")],
)
def test_special_tokens_survive_truncation(
    name: str, first: str, last: str, encoder_folders: dict[str, str], tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(encoder_folders[name])
    store = TokenStore.build(tmp_path / "tokens", ["short", "a long text about many things " * 20], tokenizer, 10)
    for ids in all_ids(store):
        tokens = tokenizer.convert_ids_to_tokens(ids)
        assert (tokens[0], tokens[-1]) == (first, last)
        assert not {first, last} & set(tokens[1:-1])
    assert store.lengths[1] == 10


@settings(deadline=None, max_examples=25)
@given(texts=st.lists(st.text(max_size=40), max_size=8), data=st.data())
def test_what_is_written_reads_back(bert, tmp_path_factory: pytest.TempPathFactory, texts: list[str], data) -> None:
    path = tmp_path_factory.mktemp("store") / "tokens"
    built = TokenStore.build(path, iter(texts), bert, 12)
    opened = TokenStore.open(path)
    expected = [bert(text, truncation=True, max_length=12)["input_ids"] for text in plain(texts)]
    assert opened.fingerprint == built.fingerprint
    assert (opened.pad_id, opened.max_length, len(opened)) == (bert.pad_token_id, 12, len(texts))
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=5)) if texts else []
    batch = opened.batch(np.array(rows, dtype=np.int64))
    longest = max((len(expected[row]) for row in rows), default=0)
    assert batch.rows.tolist() == rows
    assert batch.input_ids.tolist() == [
        expected[row] + [bert.pad_token_id] * (longest - len(expected[row])) for row in rows
    ]
    assert batch.attention_mask.sum(1).tolist() == [len(expected[row]) for row in rows]


def test_many_chunks_and_threads_give_the_same_bytes(bert, tmp_path: Path) -> None:
    texts = [f"text number {n}" for n in range(9000)]
    seen = []
    one = TokenStore.build(
        tmp_path / "one", texts, bert, 16, 1, lambda what, done, total, _: seen.append((done, total))
    )
    two = TokenStore.build(tmp_path / "two", iter(texts), bert, 16, 2)
    assert one.fingerprint == two.fingerprint
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (9000, 9000)
    last = bert("text number 8999")["input_ids"]
    assert two.batch(np.array([8999])).input_ids.tolist() == [last]


def test_fingerprint_tells_texts_length_and_tokenizer(bert, encoder_folders: dict[str, str], tmp_path: Path) -> None:
    def fingerprint(texts: list[str], tokenizer, max_length: int) -> str:
        return TokenStore.build(tmp_path / "tokens", texts, tokenizer, max_length).fingerprint

    base = fingerprint(["ab", "c"], bert, 12)
    assert fingerprint(["ab", "c"], bert, 12) == base
    others = [
        fingerprint(["a", "bc"], bert, 12),
        fingerprint(["AB", "c"], bert, 12),  # the same tokens, for they are lower-cased
        fingerprint(["ab", "c"], bert, 13),
        fingerprint(["ab", "c"], load_tokenizer(encoder_folders["mpnet"]), 12),
    ]
    assert len({base, *others}) == 5
    # One run of characters and the same tokens, cut elsewhere.
    assert fingerprint(["ab ", "c"], bert, 12) != fingerprint(["ab", " c"], bert, 12)


def test_tokenizer_fingerprint_does_not_change_with_use(bert, encoder_folders: dict[str, str]) -> None:
    before = tokenizer_fingerprint(bert)
    bert(["a", "b c"], padding="max_length", truncation=True, max_length=7)
    assert tokenizer_fingerprint(bert) == before == tokenizer_fingerprint(load_tokenizer(encoder_folders["bert"]))
    assert len({tokenizer_fingerprint(load_tokenizer(folder)) for folder in encoder_folders.values()}) == 5


def test_ids_beyond_16_bits(tmp_path: Path) -> None:
    # Synthetic: no bundled tokenizer has so large a vocabulary.
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(70_000))]
    tokenizer = transformers.BertTokenizer({word: number for number, word in enumerate(words)}, model_max_length=8)
    store = TokenStore.build(tmp_path / "tokens", ["w69999 w0", "w65531"], tokenizer, 8)
    assert all_ids(store) == [[2, 70_004, 5, 3], [2, 65_536, 3]]


def test_a_tokenizer_written_in_python(tmp_path: Path) -> None:
    tokenizer = transformers.ByT5Tokenizer(model_max_length=64)
    assert not tokenizer.is_fast
    store = TokenStore.build(tmp_path / "tokens", ODD_TEXTS, tokenizer, 20, processes=1)
    assert all_ids(store) == [tokenizer(text, truncation=True, max_length=20)["input_ids"] for text in plain(ODD_TEXTS)]


@pytest.mark.parametrize("max_length", [0, 2, MAX_LENGTH + 1])
def test_a_length_that_the_encoder_cannot_read_is_refused(bert, max_length: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{max_length}.*from 3 to {MAX_LENGTH}"):
        TokenStore.build(tmp_path / "tokens", ["a"], bert, max_length)
    assert not any(tmp_path.iterdir())


def test_a_tokenizer_without_padding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="padding"):
        TokenStore.build(tmp_path / "tokens", ["a"], transformers.GPT2Tokenizer({"a": 0}, []), 8)


def test_a_text_without_tokens_is_refused(tmp_path: Path) -> None:
    # Synthetic: a tokenizer that adds no special tokens.
    tokenizer = transformers.GPT2Tokenizer({"a": 0, "<pad>": 1}, [], model_max_length=8)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    with pytest.raises(DataError, match="text 1 "):
        TokenStore.build(tmp_path / "tokens", ["a", "", "a"], tokenizer, 8)


def test_a_failing_source_leaves_nothing_behind(bert, tmp_path: Path) -> None:
    def texts():
        yield "one"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        TokenStore.build(tmp_path / "tokens", texts(), bert, 8)
    assert not any(tmp_path.iterdir())


@pytest.fixture
def store_path(bert, tmp_path: Path) -> Path:
    TokenStore.build(tmp_path / "tokens", ["some text", "another text here"], bert, 12)
    return tmp_path / "tokens"


@pytest.mark.parametrize("file", ["tokens.bin", "offsets.npy", MANIFEST])
def test_truncated_is_refused(store_path: Path, file: str) -> None:
    content = (store_path / file).read_bytes()
    (store_path / file).write_bytes(content[:-3])
    with pytest.raises(FormatError):
        TokenStore.open(store_path)


@pytest.mark.parametrize("file", ["tokens.bin", "offsets.npy"])
def test_tampered_is_refused(store_path: Path, file: str) -> None:
    content = bytearray((store_path / file).read_bytes())
    content[-1] ^= 1
    (store_path / file).write_bytes(content)
    with pytest.raises(FormatError, match=file.replace(".", r"\.")):
        TokenStore.open(store_path)


def test_a_newer_format_is_refused(store_path: Path) -> None:
    manifest = json.loads((store_path / MANIFEST).read_text())
    manifest["version"] += 1
    (store_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match="newer"):
        TokenStore.open(store_path)


@pytest.mark.parametrize(
    ("offsets", "ids", "meta"),
    [
        ([0, 3, 2, 4], [2, 3, 2, 3], {}),
        ([0, 2, 5], [2, 3, 2, 3], {}),
        ([1, 2, 4], [2, 3, 2, 3], {}),
        ([0, 2, 4], [2, 3, 2, 50], {}),
        ([0, 4], [2, 3, 2, 3], {"max_length": 3}),
        ([0, 2, 4], [2, 3, 2, 3], {"pad_id": 50}),
        ([0, 2, 4], [2, 3, 2, 3], {"dtype": "O"}),
        ([0, 2, 4], [2, 3, 2, 3], {"dtype": ["<u2"]}),
        ([0, 2, 4], [2, 3, 2, 3], {"pad_id": None}),
        ([0, 2, 4], [2, 3, 2, 3], {"special_tokens": 8}),
        ([0, 2, 4], [2, 3, 2, 3], {"special_tokens": None}),
    ],
)
def test_inconsistent_content_is_refused_even_with_right_digests(
    tmp_path: Path, offsets: list[int], ids: list[int], meta: dict
) -> None:
    sound = {
        "dtype": "<u2",
        "max_length": 8,
        "pad_id": 0,
        "special_tokens": 2,
        "tokenizer": "",
        "texts": "",
        "vocabulary_size": 50,
    }
    with FORMAT.write(tmp_path / "tokens", sound | meta) as folder:
        np.save(folder / "offsets.npy", np.array(offsets, dtype=np.int64))
        np.array(ids, dtype="<u2").tofile(folder / "tokens.bin")
    with pytest.raises(FormatError, match="tokenise"):
        TokenStore.open(tmp_path / "tokens")


def test_rows_outside_the_store_are_refused(bert, tmp_path: Path) -> None:
    store = TokenStore.build(tmp_path / "tokens", ["a", "b"], bert, 8)
    for rows in ([-1], [0, 2]):
        with pytest.raises(IndexError):
            store.batch(np.array(rows))


@settings(deadline=None, max_examples=50)
@given(
    sequences=st.lists(st.lists(st.integers(0, 99), max_size=6), max_size=6), pad_id=st.integers(0, 5), data=st.data()
)
def test_batches_equal_plain_python(sequences: list[list[int]], pad_id: int, data: st.DataObject) -> None:
    lengths = np.array([len(s) for s in sequences], dtype=np.int32)
    flat = np.array(list(itertools.chain.from_iterable(sequences)), dtype=np.int64)
    tokens = Tokens(lengths, pad_id, 2, np.cumsum(lengths, dtype=np.int64) - lengths, flat)
    rows = data.draw(st.lists(st.integers(0, len(sequences) - 1), max_size=8)) if sequences else []
    taken = tokens.take(np.array(rows, dtype=np.int64))
    chosen = [sequences[row] for row in rows]
    assert len(taken) == len(rows)
    assert taken.with_content.tolist() == [n for n, s in enumerate(chosen) if len(s) > 2]
    batch = taken.batch(np.arange(len(rows)))
    T = max(map(len, chosen), default=0)
    assert batch.input_ids.shape == batch.attention_mask.shape == (len(rows), T)
    assert batch.input_ids.tolist() == [s + [pad_id] * (T - len(s)) for s in chosen]
    assert batch.attention_mask.tolist() == [[1] * len(s) + [0] * (T - len(s)) for s in chosen]


def test_odd_texts_are_tokenised_in_memory_as_in_a_store(bert, tmp_path: Path) -> None:
    texts = [*ODD_TEXTS, "half \ud800 of a pair", "\ud83d\ude42"] * 700
    store, tokens = TokenStore.build(tmp_path / "tokens", texts, bert, 12), tokenize(texts, bert, 12)
    assert all_ids(tokens) == all_ids(store)
    assert (tokens.pad_id, tokens.special_tokens) == (store.pad_id, store.special_tokens) == (bert.pad_token_id, 2)
    assert all_ids(tokenize(["half \ud800 of a pair"], bert, 12)) == all_ids(
        tokenize(["half \ufffd of a pair"], bert, 12)
    )
    assert len(tokenize([], bert, 12)) == 0


LENGTHS = st.lists(st.integers(1, 30), max_size=400).map(lambda lengths: np.array(lengths, dtype=np.int32))


@settings(deadline=None, max_examples=50)
@given(lengths=LENGTHS, batch_size=st.integers(1, 7), seed=st.none() | st.integers(0, 9), epoch=st.integers(0, 9))
def test_every_row_is_in_one_batch(lengths: np.ndarray, batch_size: int, seed: int | None, epoch: int) -> None:
    batches = length_bucketed(lengths, batch_size, seed=seed, epoch=epoch)
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(len(lengths)))
    assert sum(len(batch) < batch_size for batch in batches) <= 1
    assert all(0 < len(batch) <= batch_size for batch in batches)
    again = length_bucketed(lengths, batch_size, seed=seed, epoch=epoch)
    assert all(np.array_equal(one, two) for one, two in zip(batches, again, strict=True))


@settings(deadline=None, max_examples=25)
@given(lengths=LENGTHS, batch_size=st.integers(1, 7))
def test_without_a_seed_rows_go_from_long_to_short(lengths: np.ndarray, batch_size: int) -> None:
    rows = list(itertools.chain.from_iterable(length_bucketed(lengths, batch_size)))
    assert rows == sorted(range(len(lengths)), key=lambda row: -lengths[row])


def test_seed_and_epoch_decide_the_order_and_buckets_save_padding() -> None:
    lengths = np.random.default_rng(0).integers(4, 65, 5000)  # synthetic lengths
    orders = {
        tuple(itertools.chain.from_iterable(length_bucketed(lengths, 32, seed=seed, epoch=epoch)))
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 4
    batches = length_bucketed(lengths, 32, seed=0)
    padded = sum(lengths[batch].max() * len(batch) for batch in batches)
    assert padded < 1.1 * lengths.sum()
    # No order by length is left among the batches.
    means = [lengths[batch].mean() for batch in batches]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.3
