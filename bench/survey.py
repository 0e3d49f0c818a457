"""How long a survey of a large tree takes, and how much memory: `python -m bench.survey`.

    python -m bench.survey [--blobs 100000] [--folder FOLDER]

Writes a tree as distribution's file system driver has it, with sparse files: images of ten blobs
that share half of their layers with others of their repository, a fourth of them untagged. Looks at
it in a process of its own, and fails if a million blobs would take more than ten minutes
or the process more than 150 MiB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.images import CONFIG_TYPE, LAYER_TYPE, MANIFEST_TYPE

MOST_MIB = 150
MOST_SECONDS_OF_A_MILLION = 600
LAYERS, IMAGES_OF_ONE = 8, 250


class Writer:
    """Writes blobs by invented digests: a survey that is not deep believes the names."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = 0

    def blob(self, data: bytes | int, name: str) -> dict[str, object]:
        hexadecimal = hashlib.sha256(name.encode()).hexdigest()
        folder = self.root / "blobs" / "sha256" / hexadecimal[:2] / hexadecimal
        size = data if isinstance(data, int) else len(data)
        if not folder.exists():
            self.blobs += 1
            folder.mkdir(parents=True)
            with (folder / "data").open("wb") as file:
                file.truncate(size) if isinstance(data, int) else file.write(data)
        return {"digest": f"sha256:{hexadecimal}", "size": size}

    def link(self, folder: str, digest: object) -> None:
        path = self.root / "repositories" / folder / str(digest).replace(":", "/")
        path.mkdir(parents=True, exist_ok=True)
        (path / "link").write_text(str(digest))

    def repository(self, name: str) -> None:
        for number in range(IMAGES_OF_ONE):
            self.image(name, number)

    def image(self, name: str, number: int) -> None:
        parts = [self.blob(2000, f"{name} config {number}")]
        for layer in range(LAYERS):
            whose = number if layer >= LAYERS // 2 else number // 8
            parts.append(self.blob(5_000_000 + layer, f"{name} layer {layer} of {whose}"))
        for part in parts:
            self.link(f"{name}/_layers", part["digest"])
        body = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, **parts[0]},
            "layers": [{"mediaType": LAYER_TYPE, **part} for part in parts[1:]],
        }
        digest = self.blob(json.dumps(body).encode(), f"{name} manifest {number}")["digest"]
        self.link(f"{name}/_manifests/revisions", digest)
        if number % 4:
            tag = f"{name}/_manifests/tags/v{number}"
            self.link(f"{tag}/index", digest)
            current = self.root / "repositories" / tag / "current"
            current.mkdir(parents=True)
            (current / "link").write_text(str(digest))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--blobs", type=int, default=100_000)
    parser.add_argument("--folder", help="where to write the tree; default: the system's")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ullage-bench-", dir=options.folder) as name:
        writer = Writer(Path(name) / "docker" / "registry" / "v2")
        number = 0
        while writer.blobs < options.blobs:
            writer.repository(f"team-{number % 20}/app-{number}")
            number += 1
        began = time.perf_counter()
        command = [sys.executable, "-m", "ullage", "survey", name, "-o", "table"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
    if done.returncode:
        print(done.stdout, done.stderr, file=sys.stderr)
        return 1
    mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    a_million = seconds * 1_000_000 / writer.blobs
    print(done.stdout)
    print(f"{writer.blobs:,} blobs in {number} repositories: {seconds:.1f} s, {mib:.0f} MiB")
    print(f"a million: {a_million:.0f} s")
    return 0 if mib <= MOST_MIB and a_million <= MOST_SECONDS_OF_A_MILLION else 1


if __name__ == "__main__":
    raise SystemExit(main())
