"""Signatures against the vectors of RFC 8032 and against openssl."""

import base64
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from cascadexml.artifact.signing import sign, verify
from cascadexml.errors import ConfigError, FormatError

# RFC 8032, section 7.1, TEST 3.
SEED = "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7"
MESSAGE = "af82"
SIGNATURE = (
    "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
    "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
)


def write_pair(folder: Path, key: Ed25519PrivateKey) -> tuple[Path, Path]:
    private, public = folder / "key.pem", folder / "key.pub.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write_pair(tmp_path, Ed25519PrivateKey.generate())


def test_the_signature_is_that_of_the_rfc(tmp_path: Path) -> None:
    private, public = write_pair(tmp_path, Ed25519PrivateKey.from_private_bytes(bytes.fromhex(SEED)))
    message = bytes.fromhex(MESSAGE)
    signature = sign(message, private)
    assert base64.b64decode(signature) == bytes.fromhex(SIGNATURE)
    verify(message, signature, public, "it")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_makes_keys_that_work_and_takes_the_signature(tmp_path: Path) -> None:
    private, public = tmp_path / "key.pem", tmp_path / "key.pub.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    (tmp_path / "data").write_bytes(b"manifest")
    (tmp_path / "sig").write_bytes(base64.b64decode(sign(b"manifest", private)))
    command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "key.pub.pem", "-in", "data",
               "-sigfile", "sig"]  # fmt: skip
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    verify(b"manifest", sign(b"manifest", private), public, "it")


@pytest.mark.parametrize("changed", [b"manifesT", b"", b"manifest "])
def test_other_data_is_refused(pair: tuple[Path, Path], changed: bytes) -> None:
    with pytest.raises(FormatError, match="it was not signed by the owner of"):
        verify(changed, sign(b"manifest", pair[0]), pair[1], "it")


@pytest.mark.parametrize("signature", [b"", b"AAAA", b"not base64!", b"\xff" * 88, b"A" * 88])
def test_a_malformed_signature_is_refused(pair: tuple[Path, Path], signature: bytes) -> None:
    with pytest.raises(FormatError, match="do not trust it"):
        verify(b"manifest", signature, pair[1], "it")


def test_none_and_another_key_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="it is not signed"):
        verify(b"manifest", None, pair[1], "it")
    (tmp_path / "other").mkdir()
    other, _ = write_pair(tmp_path / "other", Ed25519PrivateKey.generate())
    with pytest.raises(FormatError, match="do not trust it"):
        verify(b"manifest", sign(b"manifest", other), pair[1], "it")


def test_what_is_no_key_is_refused_without_showing_it(pair: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = pair
    wrong = tmp_path / "wrong.pem"
    locked = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    )
    curve = generate_private_key(SECP256R1())
    elliptic = curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content in (b"", b"topsecret", locked, elliptic, public.read_bytes()):
        wrong.write_bytes(content)
        with pytest.raises(ConfigError, match="not the PEM file of an Ed25519 private key") as caught:
            sign(b"manifest", wrong)
        assert "topsecret" not in str(caught.value)
    wrong.write_bytes(curve.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for key in (wrong, private):
        with pytest.raises(ConfigError, match="not the PEM file of an Ed25519 public key"):
            verify(b"manifest", b"", key, "it")
    with pytest.raises(ConfigError, match=r"nowhere\.pem cannot be read as a key"):
        sign(b"manifest", tmp_path / "nowhere.pem")
