# SPDX-License-Identifier: Apache-2.0
"""The image of every test container: a static busybox, packed as a docker archive.

Nothing is pulled from anywhere. The archive is deterministic, so the same busybox gives the same
image id on every run.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

# The process that holds a pod's namespaces. PID 1 has no default signal actions, so SIGTERM needs a
# handler; `wait` reaps orphans in a shared PID namespace.
PAUSE = b"""#!/bin/sh
trap 'kill $! 2>/dev/null; exit 0' TERM INT
while :; do
    sleep 2147483647 &
    wait $!
done
"""

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
GROUP = b"root:x:0:\nnogroup:x:65534:\n"

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_PT_INTERP = 3


class ImageError(Exception):
    """The image cannot be built on this machine."""


def write_archive(
    destination: Path,
    references: Iterable[str],
    extra_files: Mapping[str, bytes] | None = None,
    entrypoint: Sequence[str] = ("/pause",),
) -> None:
    """Write the image to `destination`, to be imported under each of `references`.

    `extra_files` adds executables: a path inside the container, and its contents.
    """
    busybox = _busybox()
    layer = _layer(busybox, extra_files or {})
    machine = platform.machine()
    config = _json(
        {
            "architecture": _ARCHITECTURES.get(machine, machine),
            "os": "linux",
            "config": {
                "Entrypoint": list(entrypoint),
                "Env": ["PATH=/bin:/sbin:/usr/bin:/usr/sbin"],
            },
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + _sha256(layer)]},
        }
    )
    config_name = _sha256(config) + ".json"
    manifest = _json(
        [{"Config": config_name, "RepoTags": list(references), "Layers": ["layer.tar"]}]
    )
    with tarfile.open(destination, "w") as archive:
        _add_file(archive, "layer.tar", layer, 0o644)
        _add_file(archive, config_name, config, 0o644)
        _add_file(archive, "manifest.json", manifest, 0o644)


def _layer(busybox: Path, extra_files: Mapping[str, bytes]) -> bytes:
    listing = subprocess.run(
        [busybox, "--list-full"], check=True, capture_output=True, text=True, timeout=10
    )
    applets = [name for name in listing.stdout.split() if name != "bin/busybox"]
    files = {
        "bin/busybox": busybox.read_bytes(),
        "pause": PAUSE,
        **{path.lstrip("/"): contents for path, contents in extra_files.items()},
    }
    folders = {"dev", "etc", "proc", "root", "sys", "var", "var/log"}
    for path in [*files, *applets]:
        folders.update(str(parent) for parent in Path(path).parents if str(parent) != ".")

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as layer:
        for folder in sorted(folders):
            _add(layer, folder, 0o755, kind=tarfile.DIRTYPE)
        _add(layer, "tmp", 0o1777, kind=tarfile.DIRTYPE)
        for path, contents in files.items():
            _add_file(layer, path, contents, 0o755)
        _add_file(layer, "etc/passwd", PASSWD, 0o644)
        _add_file(layer, "etc/group", GROUP, 0o644)
        for applet in applets:
            if applet not in files:
                _add(layer, applet, 0o777, kind=tarfile.SYMTYPE, target="/bin/busybox")
    return out.getvalue()


def _busybox() -> Path:
    found = shutil.which("busybox")
    if found is None or _is_dynamic(Path(found).read_bytes()):
        raise ImageError("test containers need a static busybox: apt-get install busybox-static")
    return Path(found)


def _is_dynamic(elf: bytes) -> bool:
    """Whether a 64-bit ELF file needs a dynamic loader, which the image lacks."""
    (table,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    kinds = (struct.unpack_from("<I", elf, table + n * size)[0] for n in range(count))
    return _PT_INTERP in kinds


def _add_file(archive: tarfile.TarFile, path: str, contents: bytes, mode: int) -> None:
    _add(archive, path, mode, contents=contents)


def _add(
    archive: tarfile.TarFile,
    path: str,
    mode: int,
    *,
    kind: bytes = tarfile.REGTYPE,
    contents: bytes = b"",
    target: str = "",
) -> None:
    entry = tarfile.TarInfo(path)  # owner root, time 0: the same bytes every time
    entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(contents), target
    archive.addfile(entry, io.BytesIO(contents))


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
