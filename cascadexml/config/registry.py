"""Section `registry` of params.yaml."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from cascadexml.config.knobs import knob


@dataclass(frozen=True, kw_only=True)
class RegistrySettings:
    """The model registry in S3. Endpoint and credentials are never here: boto3 finds them in the environment.

    Each request is tried `attempts` times with the two timeouts, so that no server can hold a caller for long.
    """

    uri: str = knob("s3://cascadexml/models", meaning="`s3://bucket/prefix` below which models lie")
    encryption: Literal["none", "AES256", "aws:kms"] = knob(
        "none", meaning="server-side encryption asked for; `none` leaves it to the bucket's default"
    )
    kms_key_id: str | None = knob(None, meaning="the key for `aws:kms`; null: the account's")
    object_lock_days: int = knob(
        0,
        low=0,
        high=36500,
        meaning="days that a version is retained in a bucket with object lock (GOVERNANCE); 0: none",
    )
    sign_key: str | None = knob(None, meaning="PEM file of an Ed25519 private key that signs what is published")
    verify_key: str | None = knob(None, meaning="PEM file of the public key; what it did not sign is refused")
    connect_timeout: float = knob(5.0, low=0.1, high=600, meaning="seconds")
    read_timeout: float = knob(20.0, low=0.1, high=600, meaning="seconds without an answer")
    attempts: int = knob(4, low=1, high=20, meaning="how often a request is tried")
    workers: int = knob(8, low=1, high=64, meaning="transfers at once")

    def problems(self) -> Iterator[str]:
        """A sentence for each value that is right in itself and wrong here."""
        if re.fullmatch(r"s3://[^/@]+(/[^/@]+)*", self.uri) is None:
            yield f"registry.uri is {self.uri!r}, expected s3://bucket/prefix."
        if self.kms_key_id is not None and self.encryption != "aws:kms":
            yield f"registry.kms_key_id is set, but registry.encryption is {self.encryption}: expected aws:kms."
