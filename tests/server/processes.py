"""What the operating system says about a server process."""

import re
from contextlib import suppress
from pathlib import Path

from tests.support.server import UllageServer

MIB = 1024 * 1024


def resident_bytes(server: UllageServer) -> int:
    """Memory that the process holds now."""
    return _status(server, "VmRSS")


def forget_peak(server: UllageServer) -> None:
    """Let `peak_bytes` start again from now (proc(5), clear_refs)."""
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")


def peak_bytes(server: UllageServer) -> int:
    """The most memory that the process has held."""
    return _status(server, "VmHWM")


def in_use(server: UllageServer) -> int:
    """How many connections and blobs the process has open."""
    targets = []
    for descriptor in Path(f"/proc/{server.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # Closed while we look.
            targets.append(str(descriptor.readlink()))
    return sum(target.startswith("socket:") or "/blobs/" in target for target in targets)


def bytes_read(server: UllageServer) -> int:
    """All bytes that the process has read from files and sockets so far."""
    found = re.search(r"^rchar: (\d+)$", Path(f"/proc/{server.pid}/io").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def _status(server: UllageServer, field: str) -> int:
    text = Path(f"/proc/{server.pid}/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    assert found is not None, text
    return int(found[1]) * 1024
