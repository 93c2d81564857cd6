"""The local S3 store with its bucket and its random credentials."""

import secrets
from collections.abc import Mapping

from flows.local.processes import ServiceError, write_private
from flows.local.service import MARK, Service, Site
from flows.local.weed import CERTIFICATE, start_store

BUCKET = "cascadexml"
REGISTRY = f"s3://{BUCKET}/models"

OWN_STORE = (
    "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip
"""Any of these says that the user has a store of their own."""


class Store(Service):
    """SeaweedFS on `.local/s3`; the credentials are new at each start."""

    name = "S3 store"
    own = "your environment names one"

    def __init__(self, site: Site, wanted: int | None = None) -> None:
        super().__init__(site, wanted)
        self.credentials = site.local / "credentials"
        self.private = (self.credentials, site.local / "s3" / CERTIFICATE)

    def is_users(self) -> bool:
        """Whether any variable of the user's names a store, a key or a profile."""
        ours = {"", self.url, str(self.credentials)}
        return any(self.site.environ.get(key, "") not in ours for key in OWN_STORE)

    def usable(self) -> bool:
        """Whether its credentials are there."""
        return self.credentials.exists()

    def environment(self) -> dict[str, str]:
        """What boto3's own chain reads, and where the models are."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_SHARED_CREDENTIALS_FILE": str(self.credentials),
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "CASCADEXML_REGISTRY": REGISTRY,
        }

    def start(self, environment: Mapping[str, str]) -> None:
        """Start it with new credentials; it sees nothing of the user's environment."""
        port = self.choose_port(twin=True)
        known = [*self.site.state.get("internal", []), None, None, None, None][:4]
        others = [self.site.ports.choose([wanted], twin=True) for wanted in known]
        access_key, secret_key = secrets.token_hex(10), secrets.token_hex(20)
        keys = f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n"
        write_private(self.credentials, keys.encode())
        process = start_store(
            self.site.local / "s3", [port, *others], access_key, secret_key,
            log=self.site.new_log(self.name), environment={MARK: str(self.site.local)},
        )  # fmt: skip
        self.site.state.remember(self.name, process, port)
        self.site.state.put("internal", others)

    def stop(self) -> bool:
        """End it; SIGKILL after three seconds.

        S3 ends at once. The ten seconds more that SeaweedFS would take it spends on waiting for those who read the
        filer's log, and these are its own parts.
        """
        return self.end(3)

    def wait(self) -> None:
        """Wait until it answers, and make the bucket unless it is there."""
        self.wait_until_answers("/healthz", 60)
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        lines = self.credentials.read_text(encoding="utf-8").splitlines()
        keys = dict(line.split(" = ", 1) for line in lines if " = " in line)
        client = boto3.client(
            "s3", endpoint_url=self.url, region_name="us-east-1",
            aws_access_key_id=keys["aws_access_key_id"], aws_secret_access_key=keys["aws_secret_access_key"],
            config=Config(
                s3={"addressing_style": "path"}, retries={"mode": "standard", "total_max_attempts": 6}, proxies={}
            ),
        )  # fmt: skip
        try:
            client.create_bucket(Bucket=BUCKET)
        except (client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
            pass
        except (BotoCoreError, ClientError) as error:
            raise ServiceError(
                f"The S3 store makes no bucket {BUCKET} ({type(error).__name__}): see {self.log}."
            ) from error
