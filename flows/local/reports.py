"""`python reports.py FOLDER PORT [MORE …]`: the pages of a folder on loopback, and nothing beside them."""

import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

HOSTS = ("127.0.0.1", "localhost")


class Pages(SimpleHTTPRequestHandler):
    """Files below `directory`, for who names this machine as the host.

    Python's own handler follows links wherever they lead, and answers a page of another origin whose name was made to
    mean this machine (DNS rebinding).

    Args:
        more: folders that links may lead into besides, such as DVC's cache.
    """

    def __init__(self, *arguments: Any, directory: Path, more: tuple[Path, ...] = (), **options: Any) -> None:
        self.roots = [folder.resolve() for folder in (directory, *more)]
        super().__init__(*arguments, directory=str(directory), **options)

    def send_head(self) -> BytesIO | BinaryIO | None:
        """As of `SimpleHTTPRequestHandler`."""
        if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in HOSTS:
            self.send_error(HTTPStatus.FORBIDDEN, "this server answers to 127.0.0.1 and localhost")
            return None
        path = Path(self.translate_path(self.path)).resolve()
        # A named pipe would have the request wait for ever.
        whole = path.is_dir() or path.is_file() or not path.exists()
        if not whole or not any(path.is_relative_to(root) for root in self.roots):
            self.send_error(HTTPStatus.NOT_FOUND, "there is no such page")
            return None
        return super().send_head()


def serve(folder: Path, port: int, more: tuple[Path, ...] = ()) -> ThreadingHTTPServer:
    """A server on loopback that has begun to listen; port 0 takes any."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(Pages, directory=folder, more=more))


if __name__ == "__main__":
    with serve(Path(sys.argv[1]), int(sys.argv[2]), tuple(map(Path, sys.argv[3:]))) as server:
        server.serve_forever()
