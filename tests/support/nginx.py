"""A real nginx in front of a server, as a user would set it up."""

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests.support.require import require_command

START_SECONDS = 30


class Nginx:
    """Passes all requests on to `upstream` (host:port); `settings` are directives of its location.

    It listens on, and asks the upstream from, 127.0.0.1. `server` takes the place of all that its
    server has besides the address; `site`, of all that the http block has, from the port to listen
    on.
    """

    def __init__(
        self,
        folder: Path,
        upstream: str = "",
        *settings: str,
        server: str = "",
        site: Callable[[int], str] | None = None,
    ) -> None:
        self._folder = folder
        self._site = site or self._one_server
        self._upstream = upstream
        self._settings = settings
        self._server = server
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

    def __enter__(self) -> Self:
        command = require_command("nginx")
        self._folder.mkdir()
        configuration = self._folder / "nginx.conf"
        configuration.write_text(self._configuration())
        # In the foreground, and without workers: this process is all there is to end.
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [command, "-p", self._folder, "-c", configuration, "-e", "stderr"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                said = (self._folder / "log").read_text()
                assert self._process.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.02)

    def _configuration(self) -> str:
        paths = "".join(
            f"{kind}_temp_path {self._folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return (
            "daemon off; master_process off; error_log stderr error; pid nginx.pid;\n"
            "events { worker_connections 256; }\n"
            f"http {{ access_log off;\n{paths}{self._site(self.port)}}}\n"
        )

    def _one_server(self, port: int) -> str:
        return (
            "client_max_body_size 0;\n"
            f"server {{ listen 127.0.0.1:{port}; {self._server or self._location()} }}\n"
        )

    def _location(self) -> str:
        settings = "".join(f"{setting};" for setting in self._settings)
        return (
            f"location / {{\nproxy_pass http://{self._upstream};\n"
            f"proxy_set_header Host $http_host;\n{settings} }}"
        )
