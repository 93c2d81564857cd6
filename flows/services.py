"""The services of one machine, all on 127.0.0.1: an S3 store, a Prefect server, a worker with the deployments.

`python -m flows.services up | down | status | run -- COMMAND…`; `make up` and `make down` call it. What is running, on
which ports and with which credentials lies in `.local/` below the project's root. The stores' data stay there when
the services end, so that the next start serves the same models and runs.

A service that the user brings is not started: the S3 store when AWS_ENDPOINT_URL or AWS credentials are set, the
Prefect server when PREFECT_API_URL is set. CASCADEXML_NO_WORKER=1 starts no worker.
"""

import argparse
import hashlib
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import psutil

from cascadexml.bundle import beside
from cascadexml.errors import CascadeXMLError
from flows.processes import ServiceError, end, free_port, is_free, own_path, parent_of, write_private
from flows.store import CERTIFICATE, start_store

BUCKET = "cascadexml"
REGISTRY = f"s3://{BUCKET}/models"
POOL = "cascadexml"
STORE, SERVER, REPORTS, WORKER = "S3 store", "Prefect server", "report server", "worker"
NAMES = (STORE, SERVER, REPORTS, WORKER)
MARK = "CASCADEXML_SERVICES"
"""In the environment of every service, and so of every flow that the worker starts: the `.local` it belongs to."""

OWN_STORE = (
    "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip
"""Any of these says that the user has a store of their own."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class ServiceStatus:
    """One service: `state` is "running", "stopped", or "yours" if the user brings it; `url` is "" for the worker."""

    name: str
    state: str
    pid: int | None = None
    url: str = ""
    log: Path | None = None


def _silent(text: str) -> None:
    pass


class Services:
    """The local services of the project in `root`.

    Args:
        root: the project's root; `root/.local` holds all that the services write. `prefect.yaml` there is deployed.
        environ: the user's environment, which decides what is started; by default this process's.
        ports: preferred ports of S3 store, Prefect server and report server; others are taken when somebody listens
            there.
    """

    def __init__(
        self, root: Path, *, environ: Mapping[str, str] | None = None, ports: tuple[int, int, int] = (8333, 4200, 4300)
    ) -> None:
        self.root = root.resolve()
        self.local = self.root / ".local"
        self.credentials = self.local / "credentials"
        self.login = self.local / "prefect-login.toml"
        self.environ = dict(os.environ if environ is None else environ)
        self._preferred = {STORE: ports[0], SERVER: ports[1], REPORTS: ports[2]}
        self._processes: list[subprocess.Popen[bytes]] = []

    def up(self, report: Report = _silent) -> None:
        """Start what is not running, wait until all of it works, and deploy the flows if they changed.

        Raises:
            ServiceError: something does not start; what this call had started is stopped again.
        """
        with self._alone(report):
            before = {name for name in NAMES if self._running(name)}
            try:
                self._start_all(report)
            except BaseException:
                self._stop([name for name in NAMES if name not in before], _silent)
                raise
            self._tell(report)

    def down(self, report: Report = _silent) -> None:
        """Stop what `up` started, and the flows that the worker runs; the data stay.

        Raises:
            ServiceError: something is still there after SIGKILL.
        """
        with self._alone(report):
            if not self._stop(NAMES, report):
                report("Nothing is running.")
            for path in (self.credentials, self.login, self.local / "environment", self.local / "s3" / CERTIFICATE):
                path.unlink(missing_ok=True)

    def status(self) -> list[ServiceStatus]:
        """What runs now, in the order of starting."""
        found = []
        for name in NAMES:
            if self._is_users(name):
                found.append(ServiceStatus(name, "yours"))
            elif process := self._running(name):
                found.append(ServiceStatus(name, "running", process.pid, self._url(name), self._log(name)))
            else:
                found.append(ServiceStatus(name, "stopped"))
        return found

    def environment(self) -> dict[str, str]:
        """The variables by which a process reaches the services that run now; none of them is a secret."""
        found: dict[str, str] = {}
        if self._running(STORE) and not self._is_users(STORE):
            found |= {
                "AWS_ENDPOINT_URL": self._url(STORE),
                "AWS_SHARED_CREDENTIALS_FILE": str(self.credentials),
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
                "CASCADEXML_REGISTRY": REGISTRY,
            }
        if self._running(SERVER) and not self._is_users(SERVER):
            found |= {
                "PREFECT_API_URL": f"{self._url(SERVER)}/api",
                "PREFECT_HOME": str(self.local / "prefect"),
                "PREFECT_PROFILES_PATH": str(self.login),
            }
        if self._running(REPORTS) and not self._is_users(REPORTS):
            found["CASCADEXML_REPORTS_URL"] = self._url(REPORTS)
        if found:
            # A proxy that the machine needs for the outside must not be asked for 127.0.0.1.
            found["NO_PROXY"] = "127.0.0.1,localhost"
        return {
            **found,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # A run whose process is gone is found by its silence (flows/automations.py).
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "DO_NOT_TRACK": "1",
        }

    def merged_environment(self) -> dict[str, str]:
        """The user's environment with `environment()` below it, and this Python's programs first on the path."""
        return {**self.environment(), **self.environ, "PATH": own_path(self.environ)}

    def _start_all(self, report: Report) -> None:
        changed = False
        kept = {STORE: self.credentials.exists(), SERVER: self._auth_string() is not None}
        starts = {STORE: self._start_store, SERVER: self._start_server, REPORTS: self._start_reports}
        for name, start in starts.items():
            if self._is_users(name):
                report(f"{name}: not started, your environment names one.")
            elif self._running(name) and kept.get(name, True):
                report(f"{name}: already running, {self._url(name)}")
            else:
                self._stop([name], _silent)
                start()
                changed = changed or name != REPORTS
        self._wait_for_store()
        if self._running(SERVER) and not self._is_users(SERVER):
            self._wait_until_answers(SERVER, "/api/health", 180)
        if not self._is_users(REPORTS):
            self._wait_until_answers(REPORTS, "/", 30)
        self._write_environment()
        self._deploy(report, fresh=changed)
        if not self._is_users(WORKER):
            self._wait(WORKER, lambda: " started!" in self._log(WORKER).read_text(errors="replace"), 120)

    def _start_store(self) -> None:
        port = self._choose_port(STORE, twin=True)
        others = self._state().get("internal", [])
        if not (len(others) == 4 and all(is_free(other) and is_free(other + 10000) for other in others)):
            others = []
            while len(others) < 4:
                others.append(free_port(taken={port, port + 10000, *others}))
        access_key, secret_key = secrets.token_hex(10), secrets.token_hex(20)
        keys = f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n"
        write_private(self.credentials, keys.encode())
        process = start_store(
            self.local / "s3", [port, *others], access_key, secret_key,
            log=self._new_log(STORE), environment={MARK: str(self.local)},
        )  # fmt: skip
        self._remember(STORE, process, port)
        self._write_state({**self._state(), "internal": others})

    def _wait_for_store(self) -> None:
        if self._is_users(STORE):
            return
        self._wait_until_answers(STORE, "/healthz", 60)
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        lines = self.credentials.read_text(encoding="utf-8").splitlines()
        keys = dict(line.split(" = ", 1) for line in lines if " = " in line)
        client = boto3.client(
            "s3", endpoint_url=self._url(STORE), region_name="us-east-1",
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
                f"The S3 store makes no bucket {BUCKET} ({type(error).__name__}): see {self._log(STORE)}."
            ) from error

    def _start_server(self) -> None:
        port = self._choose_port(SERVER)
        home = self.local / "prefect"
        home.mkdir(parents=True, exist_ok=True)
        own = [f"http://{host}:{port}" for host in ("127.0.0.1", "localhost")]
        environment = {
            "PREFECT_HOME": str(home),
            # By default whoever reaches the server, and any page in the user's browser, may have it run code.
            "PREFECT_SERVER_API_AUTH_STRING": self._auth_string() or self._new_auth_string(),
            "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(own),
            "PREFECT_API_URL": f"{own[0]}/api",
        }
        command = ["-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        self._remember(SERVER, self._spawn(SERVER, command, environment, cwd=home), port)

    def _auth_string(self) -> str | None:
        """What the server asks for, `user:password`; None without a file that Prefect's clients can read it from."""
        with suppress(OSError, ValueError, LookupError, TypeError):
            profiles = tomllib.loads(self.login.read_text(encoding="utf-8"))["profiles"]
            return str(profiles["local"]["PREFECT_API_AUTH_STRING"])
        return None

    def _new_auth_string(self) -> str:
        self._stop([WORKER], _silent)  # it knows the last one, and so do its flows
        made = f"admin:{secrets.token_hex(20)}"
        profile = f'active = "local"\n\n[profiles.local]\nPREFECT_API_AUTH_STRING = "{made}"\n'
        write_private(self.login, profile.encode())
        return made

    def _start_reports(self) -> None:
        """Serve data/reports, so that the pages that a run's page names are links."""
        port = self._choose_port(REPORTS)
        folder = self.root / "data" / "reports"
        folder.mkdir(parents=True, exist_ok=True)
        command = ["-m", "http.server", "--bind", "127.0.0.1", "--directory", str(folder), str(port)]
        self._remember(REPORTS, self._spawn(REPORTS, command, {}, cwd=folder), port)

    def _start_worker(self, report: Report) -> None:
        if self._is_users(WORKER):
            report("worker: not started, CASCADEXML_NO_WORKER is set.")
            return
        # A worker keeps the endpoints that it was started with.
        endpoints = [self._url(STORE), self._api(), self._url(REPORTS)]
        if self._running(WORKER):
            if self._state()["services"][WORKER].get("endpoints") == endpoints:
                report(f"worker: already running, pool {POOL}")
                return
            self._stop([WORKER], _silent)
        command = ["-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process",
                   "--name", socket.gethostname()]  # fmt: skip
        process = self._spawn(WORKER, command, {}, cwd=self.root)
        self._remember(WORKER, process, None, endpoints=endpoints)

    def _deploy(self, report: Report, *, fresh: bool) -> None:
        """Make the pool, start the worker, deploy prefect.yaml unless this server has had just these files."""
        digest = hashlib.sha256(self._api().encode())
        for path in [*self.root.glob("prefect.yaml"), *sorted(self.root.glob("flows/*.py"))]:
            digest.update(path.read_bytes())
        fresh = fresh or self._state().get("deployed") != digest.hexdigest()
        log = self._new_log("deploy") if fresh else self._log("deploy")
        # prefect.yaml's $PWD is the variable, which a change of folder alone leaves as it was.
        own = {"PWD": str(self.root), "PREFECT_LOGGING_COLORS": "false", "NO_COLOR": "1"}
        environment = {**self.merged_environment(), **own}

        def run(*arguments: str) -> bool:
            with log.open("ab") as file:
                done = subprocess.run(  # noqa: S603
                    [sys.executable, "-m", *arguments], env=environment, cwd=self.root,
                    stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=False,
                )  # fmt: skip
            return done.returncode == 0

        def must(*arguments: str) -> None:
            if not run(*arguments):
                raise ServiceError(f"`python -m {' '.join(arguments)}` failed ({_last_line(log)}): see {log}.")

        prefect = ("prefect", "--no-prompt")
        if fresh and not run(*prefect, "work-pool", "inspect", POOL):
            must(*prefect, "work-pool", "create", POOL, "--type", "process")
        self._start_worker(report)
        if fresh and (self.root / "prefect.yaml").exists():
            report("deploying the flows of prefect.yaml")
            must(*prefect, "deploy", "--all")
            if (self.root / "flows" / "automations.py").exists():
                must("flows.automations")
        self._write_state({**self._state(), "deployed": digest.hexdigest()})

    def _tell(self, report: Report) -> None:
        if not self._is_users(STORE):
            report(f"S3 endpoint      {self._url(STORE)}, credentials in {self.credentials}")
        report(f"model registry   {self.environ.get('CASCADEXML_REGISTRY', REGISTRY)}")
        report(f"Prefect          {self._api().removesuffix('/api')}")
        if not self._is_users(SERVER):
            report(f"  its login      the text between quotes behind PREFECT_API_AUTH_STRING in {self.login}")
        if not self._is_users(REPORTS):
            report(f"reports          {self._url(REPORTS)}")
        report(f"logs             {self.local / 'logs'}")
        report('in your shell    eval "$(make -s env)"')
        report("to end           make down")

    def _write_environment(self) -> None:
        lines = [f"{key}={shlex.quote(value)}\n" for key, value in self.environment().items()]
        with beside(self.local / "environment") as new:
            new.write_text("".join(lines), encoding="utf-8")

    def _is_users(self, name: str) -> bool:
        """Whether the user's environment brings this service; what `.local/environment` said before does not count."""
        if name == WORKER:
            return self.environ.get("CASCADEXML_NO_WORKER", "") not in ("", "0")
        if name == REPORTS:
            return self.environ.get("CASCADEXML_REPORTS_URL", "") not in ("", self._url(REPORTS))
        if name == SERVER:
            return self.environ.get("PREFECT_API_URL") not in (None, "", f"{self._url(SERVER)}/api")
        own = {"", self._url(STORE), str(self.credentials)}
        return any(self.environ.get(key, "") not in own for key in OWN_STORE)

    def _api(self) -> str:
        return self.environ["PREFECT_API_URL"] if self._is_users(SERVER) else f"{self._url(SERVER)}/api"

    def _url(self, name: str) -> str:
        port = self._state()["ports"].get(name)
        return f"http://127.0.0.1:{port}" if port else ""

    def _log(self, name: str) -> Path:
        return self.local / "logs" / f"{name.lower().replace(' ', '-')}.log"

    def _new_log(self, name: str) -> Path:
        log = self._log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        log.touch()
        return log

    def _spawn(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str], *, cwd: Path
    ) -> subprocess.Popen[bytes]:
        own = {MARK: str(self.local), "PREFECT_LOGGING_COLORS": "false", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
        with self._new_log(name).open("ab") as log:
            return subprocess.Popen(  # noqa: S603
                [sys.executable, *arguments], env={**self.merged_environment(), **environment, **own}, cwd=cwd,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _choose_port(self, name: str, *, twin: bool = False) -> int:
        for port in (self._state()["ports"].get(name), self._preferred[name]):
            if port and is_free(port) and not (twin and not is_free(port + 10000)):
                return int(port)
        return free_port(taken=set())

    def _wait_until_answers(self, name: str, path: str, seconds: float) -> None:
        url = self._url(name) + path
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def answers() -> bool:
            with suppress(OSError), direct.open(url, timeout=2) as answer:
                return bool(answer.status == 200)
            return False

        self._wait(name, answers, seconds)

    def _wait(self, name: str, ready: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            log = self._log(name)
            if not self._running(name):
                raise ServiceError(f"The {name} ended while starting ({_last_line(log)}): see {log}.")
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"The {name} does not answer within {seconds:g} seconds ({_last_line(log)}): see {log}; "
                    "if it was running before, `make down` ends it."
                )
            time.sleep(0.2)

    def _state(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.local / "services.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"ports": {}, "services": {}}
        except ValueError:
            raise ServiceError(
                f"{self.local / 'services.json'} is no JSON: end the services by hand (`ps`) and remove that file."
            ) from None
        return found

    def _write_state(self, state: Mapping[str, Any]) -> None:
        with beside(self.local / "services.json") as new:
            new.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")

    def _remember(self, name: str, process: subprocess.Popen[bytes], port: int | None, **more: Any) -> None:
        self._processes.append(process)
        state = self._state()
        with suppress(psutil.NoSuchProcess):
            state["services"][name] = {
                "pid": process.pid,
                "started": psutil.Process(process.pid).create_time(),
                "command": process.args,
                **more,
            }
        if port is not None:
            state["ports"][name] = port
        self._write_state(state)

    def _running(self, name: str) -> psutil.Process | None:
        """The process of a service, if it is the one that was started: a pid may belong to another by now."""
        entry = self._state()["services"].get(name)
        if entry is None:
            return None
        try:
            process = psutil.Process(entry["pid"])
            same = abs(process.create_time() - entry["started"]) < 2
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    def _stop(self, names: Sequence[str], report: Report) -> bool:
        """Stop services, the worker with its flows first, so that these can still tell the server of their end."""
        any_was = False
        for name in (name for name in reversed(NAMES) if name in names):
            process = self._running(name)
            flows = self._marked(but=process) if name == WORKER else []
            if process or flows:
                any_was = True
                # A flow clears up after itself when it gets SIGTERM; what it leaves behind is ended below. The worker
                # comes second: its end would take from its flows the way to report theirs.
                pids = {flow.pid for flow in flows}
                end([flow for flow in flows if parent_of(flow) not in pids], "flow", 25)
                end([process] if process else [], name, 20)
                if name == WORKER:
                    end(self._marked(), "flow", 5)
                report(f"{name}: stopped")
            state = self._state()
            if state["services"].pop(name, None):
                self._write_state(state)
        return any_was

    def _marked(self, but: psutil.Process | None = None) -> list[psutil.Process]:
        """The worker and all that it started, also what outlived it; neither this process nor its parents."""
        keep = {process.pid for name in (STORE, SERVER, REPORTS) if (process := self._running(name))}
        keep |= {but.pid} if but else set()
        this = psutil.Process()
        keep |= {this.pid, *(parent.pid for parent in this.parents())}
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.pid not in keep and process.environ().get(MARK) == str(self.local):
                    found.append(process)
        return found

    @contextmanager
    def _alone(self, report: Report) -> Iterator[None]:
        self.local.mkdir(mode=0o700, exist_ok=True)
        lock = filelock.FileLock(self.local / "lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            report("Another `make up` or `make down` is at work: waiting for it.")
            try:
                lock.acquire(timeout=300)
            except filelock.Timeout:
                raise ServiceError(
                    "Another `make up` or `make down` has been at work for 5 minutes: try again when it is done."
                ) from None
        try:
            yield
        finally:
            lock.release()


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "its log is empty"


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.services", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start what is not running, deploy the flows")
    commands.add_parser("down", help="stop what up started; the data stay")
    commands.add_parser("status", help="say what runs")
    commands.add_parser("env", help='print the services\' environment for a shell: eval "$(make -s env)"')
    run = commands.add_parser("run", help="run a command with the services' environment; your own variables win")
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    given = parser.parse_args(arguments)
    services = Services(Path.cwd())
    try:
        if given.command == "up":
            services.up(_print)
        elif given.command == "down":
            services.down(_print)
        elif given.command == "status":
            for each in services.status():
                pid = f"process {each.pid}" if each.pid else ""
                _print(f"{each.name:16} {each.state:8} {each.url} {pid}".rstrip())
        elif given.command == "env":
            for key, value in services.environment().items():
                _print(f"export {key}={shlex.quote(value)}")
        else:
            argv = given.argv[1:] if given.argv[:1] == ["--"] else given.argv
            if not argv:
                parser.error("run needs a command: run -- COMMAND")
            environment = services.merged_environment()
            program = shutil.which(argv[0], path=environment["PATH"])
            if program is None:
                raise ServiceError(f"There is no program {argv[0]!r}.")
            os.execve(program, argv, environment)  # noqa: S606
    except CascadeXMLError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
