"""The local Prefect server with its random password, and the server of data/reports."""

import secrets
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from flows.local.processes import write_private
from flows.local.service import Service, Site


class Server(Service):
    """Prefect on SQLite in `.local/prefect`; it asks for a password, which stays until `down`."""

    name = "Prefect server"
    own = "your environment names one"

    def __init__(self, site: Site, wanted: int | None = None) -> None:
        super().__init__(site, wanted)
        self.login = site.local / "prefect-login.toml"
        self.private = (self.login,)

    def is_users(self) -> bool:
        """Whether PREFECT_API_URL names another server."""
        return self.site.environ.get("PREFECT_API_URL") not in (None, "", f"{self.url}/api")

    @property
    def api(self) -> str:
        """The address that Prefect's clients are given, the user's own where there is one."""
        return self.site.environ["PREFECT_API_URL"] if self.is_users() else f"{self.url}/api"

    def usable(self) -> bool:
        """Whether its password is known."""
        return self.auth_string() is not None

    def environment(self) -> dict[str, str]:
        """Its address, and the profile that holds its password."""
        return {
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(self.site.local / "prefect"),
            "PREFECT_PROFILES_PATH": str(self.login),
        }

    def start(self, environment: Mapping[str, str]) -> None:
        """Start it with the known password, else with a new one."""
        port = self.choose_port()
        home = self.site.local / "prefect"
        home.mkdir(parents=True, exist_ok=True)
        origins = [f"http://{host}:{port}" for host in ("127.0.0.1", "localhost")]
        own = {
            "PREFECT_HOME": str(home),
            # By default whoever reaches the server, and any page in the user's browser, may have it run code.
            "PREFECT_SERVER_API_AUTH_STRING": self.auth_string() or self._new_auth_string(),
            "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
            "PREFECT_API_URL": f"{origins[0]}/api",
        }
        command = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        self.site.state.remember(self.name, self.spawn(command, {**environment, **own}, home), port)

    def wait(self) -> None:
        """Wait until its database is ready and it answers."""
        self.wait_until_answers("/api/health", 180)

    def auth_string(self) -> str | None:
        """What it asks for, `user:password`; None without a file that Prefect's clients can read it from."""
        with suppress(OSError, ValueError, LookupError, TypeError):
            profiles = tomllib.loads(self.login.read_text(encoding="utf-8"))["profiles"]
            return str(profiles["local"]["PREFECT_API_AUTH_STRING"])
        return None

    def _new_auth_string(self) -> str:
        made = f"admin:{secrets.token_hex(20)}"
        profile = f'active = "local"\n\n[profiles.local]\nPREFECT_API_AUTH_STRING = "{made}"\n'
        write_private(self.login, profile.encode())
        return made


class Reports(Service):
    """A web server on data/reports, so that the pages that a run's page names are links."""

    name = "report server"
    own = "your environment names one"

    def is_users(self) -> bool:
        """Whether CASCADEXML_REPORTS_URL names another server."""
        return self.site.environ.get("CASCADEXML_REPORTS_URL", "") not in ("", self.url)

    def environment(self) -> dict[str, str]:
        """Its address."""
        return {"CASCADEXML_REPORTS_URL": self.url}

    def start(self, environment: Mapping[str, str]) -> None:
        """Start it; the folder is made, if no run has made it yet."""
        port = self.choose_port()
        folder = self.site.root / "data" / "reports"
        folder.mkdir(parents=True, exist_ok=True)
        cache = self.site.root / ".dvc" / "cache"
        # By its file, as the site may be a folder from which this package cannot be imported.
        command = ["-P", str(Path(__file__).with_name("reports.py")), str(folder), str(port), str(cache)]
        self.site.state.remember(self.name, self.spawn(command, environment, self.site.root), port)

    def wait(self) -> None:
        """Wait until it answers."""
        self.wait_until_answers("/", 30)
