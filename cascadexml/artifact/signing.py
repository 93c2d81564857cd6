"""Ed25519 signatures of manifests: who published a model, where the store's own rights are not proof enough.

A signature is over a manifest's bytes, which hold the SHA-256 of every other file. It lies in Base64 beside the
manifest. `openssl genpkey -algorithm ed25519` makes a private key, `openssl pkey -pubout` its public one.
"""

import base64
import binascii
from pathlib import Path

from cascadexml.errors import ConfigError, FormatError

SIGNATURE = "manifest.json.sig"


def sign(data: bytes, key: Path) -> bytes:
    """The signature of `data`: one line of Base64. The same data and key give the same bytes.

    Args:
        data: a manifest.
        key: PEM file of an Ed25519 private key without a password.

    Raises:
        ConfigError: `key` is no such file, or `cryptography` is not installed.
    """
    content = _read(key)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigError(f"{key} is not the PEM file of an Ed25519 private key without a password: see openssl.")
    return base64.b64encode(private.sign(data)) + b"\n"


def verify(data: bytes, signature: bytes | None, key: Path, where: str) -> None:
    """Refuse `data` unless it was signed with the private key that belongs to `key`.

    Args:
        data: a manifest.
        signature: what `sign` gave; None where there is none.
        key: PEM file of an Ed25519 public key.
        where: what messages call the data.

    Raises:
        ConfigError: `key` is no such file, or `cryptography` is not installed.
        FormatError: the signature is missing, malformed, or not this key's for this data.
    """
    content = _read(key)
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        public = load_pem_public_key(content)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        public = None
    if not isinstance(public, Ed25519PublicKey):
        raise ConfigError(f"{key} is not the PEM file of an Ed25519 public key: see openssl.")
    if signature is None:
        raise FormatError(f"{where} is not signed, but the key {key} is set: publish it with the sign key.")
    try:
        public.verify(base64.b64decode(signature.strip(), validate=True), data)
    except (InvalidSignature, binascii.Error):
        raise FormatError(f"{where} was not signed by the owner of {key}: do not trust it.") from None


def _read(key: Path) -> bytes:
    try:
        import cryptography  # noqa: F401 — the first to say that it is missing
    except ImportError:
        raise ConfigError('signatures need cryptography: pip install "cascadexml[signing]".') from None
    try:
        return key.read_bytes()
    except OSError as error:
        raise ConfigError(f"{key} cannot be read as a key ({error.strerror}): check the path.") from None
