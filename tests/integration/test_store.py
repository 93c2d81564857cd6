"""What the embedded store lets in past S3: nothing, neither from a page in a browser nor from another user's shell."""

import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from flows.local.weed import CERTIFICATE
from tests.conftest import REPO, SeaweedFS

pytestmark = pytest.mark.integration

KEY = "models/eurlex/aliases/champion.json"
PAGE = {"Origin": "https://example.org"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    made = SeaweedFS(tmp_path_factory.mktemp("store"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def bucket(store: SeaweedFS) -> str:
    """A bucket with an alias, and a file that lies in several chunks on the volume server."""
    bucket = store.server.make_bucket()
    store.server.client().put_object(Bucket=bucket, Key=KEY, Body=b'{"version": "0001"}')
    store.server.client().upload_file(str(big()), bucket, "models/big")
    store.server.client().upload_file(
        str(big()), bucket, "models/encrypted", ExtraArgs={"ServerSideEncryption": "AES256"}
    )
    return bucket


def big() -> Path:
    return max((REPO / "data" / "sample").glob("*.xz"), key=lambda path: path.stat().st_size)


def unchanged(store: SeaweedFS, bucket: str) -> bool:
    """Whether S3 gives with its keys what was written with them."""
    keys = {KEY: b'{"version": "0001"}', "models/big": big().read_bytes(), "models/encrypted": big().read_bytes()}
    client = store.server.client()
    return all(client.get_object(Bucket=bucket, Key=key)["Body"].read() == content for key, content in keys.items())


def requests_of_a_stranger(store: SeaweedFS, bucket: str) -> list[tuple[str, str]]:
    """Method and address without scheme: what reads, writes and deletes past S3 in a SeaweedFS that is open."""
    _, master, volume, filer, admin = (f"127.0.0.1:{port}" for port in store.ports)
    return [
        *((method, f"{filer}/buckets/{bucket}/{KEY}") for method in ("GET", "PUT", "POST", "DELETE")),
        ("DELETE", f"{filer}/buckets/{bucket}?recursive=true"),
        ("POST", f"{filer}/.tus/buckets/{bucket}/{KEY}"),
        *((method, f"{master}/dir/assign") for method in ("GET", "POST")),
        *(("GET", f"{master}/{path}") for path in ("", "dir/status", "dir/lookup?volumeId=1", "cluster/status")),
        *(("POST", f"{master}/{path}") for path in ("submit", f"col/delete?collection={bucket}", "vol/grow?count=1")),
        *(("GET", f"{volume}/{path}") for path in ("", "ui/index.html", "statuz", "stats/disk")),
        *((method, f"{volume}/1,01abcdef12") for method in ("GET", "PUT", "POST", "DELETE")),
        *((method, f"{admin}/") for method in ("GET", "POST", "DELETE")),
    ]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_nothing_is_read_written_or_deleted_past_s3(store: SeaweedFS, bucket: str, scheme: str) -> None:
    answered = {}
    pem = str(store.folder / CERTIFICATE)
    for method, address in requests_of_a_stranger(store, bucket):
        form = {"file": ("champion.json", b'{"version": "0666"}')} if method in ("PUT", "POST") else None
        try:
            answer = requests.request(method, f"{scheme}://{address}", headers=PAGE, files=form, verify=pem, timeout=10)
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            continue
        volume = address.startswith(f"127.0.0.1:{store.ports[2]}/") and answer.status_code == 401
        if not volume and answer.text != "Client sent an HTTP request to an HTTPS server.\n":
            answered[method, address] = answer.status_code
    assert answered == {}
    assert unchanged(store, bucket)


def test_every_port_but_s3s_and_the_volumes_asks_for_the_certificate(store: SeaweedFS, bucket: str) -> None:
    assert store.process
    connections = psutil.Process(store.process.pid).net_connections("inet")
    ports = {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN}
    assert ports == {port + twin for port in store.ports for twin in (0, 10000)}
    context = ssl.create_default_context(cafile=store.folder / CERTIFICATE)
    context.set_alpn_protocols(["h2", "http/1.1"])
    s3, _, volume, _, _ = store.ports
    for port in ports - {s3, volume}:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"),
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            secure.recv(1)


def test_the_certificate_alone_opens_no_object(store: SeaweedFS, bucket: str) -> None:
    """The second lock, and the one on the filer's Unix socket, which asks for no certificate."""
    _, _, volume, filer, _ = store.ports
    pem = str(store.folder / CERTIFICATE)
    for method in ("GET", "POST", "DELETE"):
        for address in (f"https://127.0.0.1:{filer}/buckets/{bucket}/{KEY}", f"http://127.0.0.1:{volume}/1,01abcdef12"):
            answer = requests.request(method, address, cert=pem, verify=pem, timeout=10)
            assert answer.status_code == 401, (method, address)
    assert unchanged(store, bucket)


def test_another_page_in_the_browser_may_not_read_from_s3(store: SeaweedFS, bucket: str) -> None:
    client = store.server.client()
    signed = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": KEY})
    answer = requests.get(signed, headers=PAGE, timeout=10)
    assert (answer.status_code, json.loads(answer.text)) == (200, {"version": "0001"})
    asks = {**PAGE, "Access-Control-Request-Method": "PUT"}
    for found in (answer, requests.options(f"{store.server.endpoint}/{bucket}/{KEY}", headers=asks, timeout=10)):
        assert "access-control-allow-origin" not in found.headers


def test_the_inner_secrets_are_in_no_log_and_the_certificate_is_its_owners(store: SeaweedFS, bucket: str) -> None:
    assert store.process
    assert (store.folder / CERTIFICATE).stat().st_mode & 0o777 == 0o600
    environ = psutil.Process(store.process.pid).environ()
    secrets = {value for key, value in environ.items() if key.startswith("WEED_JWT_")}
    assert len(secrets) == 4
    assert all(len(secret) == 64 for secret in secrets)
    files = [path.read_bytes() for path in store.folder.rglob("*") if path.is_file()]
    assert not any(secret.encode() in content for secret in secrets for content in files)


def test_each_start_has_secrets_of_its_own_and_serves_the_same_objects(tmp_path: Path) -> None:
    store = SeaweedFS(tmp_path / "again")
    try:
        seen = []
        for _ in range(2):
            store.start()
            if not seen:
                bucket = store.server.make_bucket()
                store.server.client().upload_file(str(big()), bucket, "models/big")
            assert store.process
            environ = psutil.Process(store.process.pid).environ()
            seen.append((environ["WEED_JWT_SIGNING_KEY"], (store.folder / CERTIFICATE).read_bytes()))
            found = store.server.client().get_object(Bucket=bucket, Key="models/big")["Body"].read()
            assert found == big().read_bytes()
            store.stop()
        assert seen[0][0] != seen[1][0]
        assert seen[0][1] != seen[1][1]
    finally:
        store.stop()
