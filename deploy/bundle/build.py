# SPDX-License-Identifier: Apache-2.0
"""A directory with everything that ktrace needs: interpreter, C library, loader, other libraries.

It runs where there is no Python, an old one, or no C library at all. The interpreter and the
libraries are those of this Debian, the rest comes out of wheels. Nothing in it depends on where or
when it was built, so that two builds of one commit are the same to the byte.
"""

from __future__ import annotations

import compileall
import hashlib
import importlib.metadata
import io
import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from deploy import BuildError

Say = Callable[[str], None]

ROOT = Path(__file__).parents[2]
PYTHON = "python3.11"
# Debian's packages of which files are taken: the interpreter with its modules, and what is loaded.
INTERPRETER = (f"{PYTHON}-minimal", f"lib{PYTHON}-minimal", f"lib{PYTHON}-stdlib")
LOADED_BY_NAME = ("libbpf.so.1",)
LEVEL = 19
# What the node's own Python runs, whichever version it is.
FOR_THE_NODE = ("tracer/backends/bcc/worker.py",)

# Of the standard library: what a tracer never imports.
LEFT_OUT = re.compile(
    r"(test|idlelib|lib2to3|tkinter|turtle|turtledemo|ensurepip|distutils|venv|pydoc|pydoc_data|curses"
    r"|dbm|sqlite3|wsgiref|xmlrpc|ssl|lzma|bz2|doctest|cProfile|profile|pstats|imaplib|ftplib|poplib"
    r"|smtplib|nntplib|telnetlib|mailbox|mailcap|sitecustomize|webbrowser|antigravity|this|crypt|sunau"
    r"|aifc|chunk|dist-packages|config-.*)(\.py)?"
)
EXTENSIONS_LEFT_OUT = re.compile(
    r"(_bz2|_codecs_(cn|hk|iso2022|jp|kr|tw)|_crypt|_curses.*|_dbm|_hashlib|_lsprof|_lzma|_sqlite3|_ssl"
    r"|_multibytecodec|_test.*|_ctypes_test|_uuid|_?xx.*|audioop|nis|ossaudiodev|readline)\..*"
)
# Of the wheels: second ways to the same, what only compilers and type checkers read, certificates.
FILES_LEFT_OUT = re.compile(
    r"__pycache__/|^(?!tracer/).*((^|/)(tests?|bin|include)/|\.(pyi|c|h|pyx|pxd|typed)$)"
    r"|roots\.pem$|^pygments/lexers/(?!__init__|_mapping|python\.py)|^zstandard/_cffi"
)


@dataclass(frozen=True)
class Part:
    """Something in the bundle that somebody else has made."""

    name: str
    version: str
    purl: str
    licence: str


def build(wheel: Path, into: Path, say: Say) -> Path:
    """The bundle's directory, below `into`."""
    version = wheel.name.split("-")[1]
    root = into / f"ktrace-{version}-{os.uname().machine}"
    shutil.rmtree(root, ignore_errors=True)
    modules = root / "lib" / PYTHON
    modules.mkdir(parents=True)
    say("the interpreter")
    parts = [*_interpreter(root, modules)]
    say("the wheels")
    parts += _wheels(wheel, modules)
    say("the libraries")
    parts += _libraries(root)
    say("the launcher")
    _launcher(root)
    say("stripping and compiling")
    _strip(path for path in root.rglob("*") if path.is_file() and _is_elf(path))
    _compile(modules)
    _licences(root / "licences", parts)
    (root / "sbom.cdx.json").write_text(_sbom(version, parts))
    return root


def pack(root: Path) -> Path:
    """As NAME.tar.zst, with nothing of who and when in it."""
    target = root.with_name(f"{root.name}.tar.zst")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in [root, *sorted(root.rglob("*"))]:
            archive.add(path, path.relative_to(root.parent), recursive=False, filter=_anonymous)
    target.write_bytes(zstandard.ZstdCompressor(level=LEVEL).compress(buffer.getvalue()))
    return target


def checksums(directory: Path) -> None:
    """SHA256SUMS as sha256sum(1) checks it."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in files
        if path.name != "SHA256SUMS"
    ]
    (directory / "SHA256SUMS").write_text("".join(lines))


def made_at() -> int:
    """Seconds since 1970: of the commit, unless SOURCE_DATE_EPOCH says otherwise
    (https://reproducible-builds.org/specs/source-date-epoch/)."""
    told = os.environ.get("SOURCE_DATE_EPOCH")
    if told is None:
        told = _said("git", "-C", str(ROOT), "log", "-1", "--format=%ct")
    return int(told)


def _interpreter(root: Path, modules: Path) -> Iterator[Part]:
    (root / "bin").mkdir()
    shutil.copy(f"/usr/bin/{PYTHON}", root / "bin" / PYTHON)
    library = Path("/usr/lib", PYTHON)
    for path in sorted(library.rglob("*")):
        inside = path.relative_to(library)
        if path.suffix == ".so":
            wanted = not EXTENSIONS_LEFT_OUT.fullmatch(path.name)
        else:
            wanted = path.suffix == ".py" and not LEFT_OUT.fullmatch(inside.parts[0])
        if wanted:
            _copy(path, modules / inside)
    for package in INTERPRETER:
        yield _debian(package)


def _wheels(wheel: Path, modules: Path) -> list[Part]:
    """ktrace's own and those that it needs, in one directory with the standard library: a second
    one would be looked through for every import."""
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "-qq", "--no-compile"),
                *("--disable-pip-version-check", "--root-user-action=ignore"),
                *("--target", scratch, "--only-binary=:all:", str(wheel)),
            ],
            check=True,
        )
        found = [_python(d) for d in importlib.metadata.distributions(path=[scratch])]
        for path in sorted(Path(scratch).rglob("*")):
            inside = str(path.relative_to(scratch))
            if not path.is_file() or FILES_LEFT_OUT.search(inside):
                continue
            if ".dist-info/" in inside and not inside.endswith(("/METADATA", "entry_points.txt")):
                continue
            _copy(path, modules / inside)
    return sorted(found, key=lambda part: part.name)


def _libraries(root: Path) -> Iterator[Part]:
    """What the programs and modules are linked with, and what is loaded by its name."""
    loaded = [path for path in root.rglob("*") if path.is_file() and _is_elf(path)]
    paths: dict[str, Path] = {}
    for path in [*loaded, *map(_by_name, LOADED_BY_NAME)]:
        for name, place in _needed(path):
            paths.setdefault(name, place)
    paths |= {name: _by_name(name) for name in LOADED_BY_NAME}
    packages = set()
    for name, place in sorted(paths.items()):
        loader = name.startswith("ld-linux")
        _copy(place, root / "lib" / ("ktrace" if loader else name))
        packages.add(_owner(place))
    (root / "lib" / "ktrace").chmod(0o755)
    return map(_debian, sorted(packages))


def _launcher(root: Path) -> None:
    source = Path(__file__).with_name("launcher.c")
    flags = ["-O2", "-static", "-s", "-Wall", "-Wextra", "-Werror", f'-DPYTHON="{PYTHON}"']
    flags += [f"-ffile-prefix-map={source.parent}=.", "-Wl,--build-id=none"]
    subprocess.run(["clang", *flags, str(source), "-o", str(root / "ktrace")], check=True)


def _compile(modules: Path) -> None:
    """In order, so that what is shared between two is shared in every build. Nobody looks at the
    sources again: to compare them would cost a stat(2) for each module."""
    compiled = compileall.compile_dir(
        modules,
        quiet=1,
        stripdir=str(modules.parent),
        legacy=True,
        optimize=0,
        workers=1,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    if not compiled:
        raise BuildError("some modules of the bundle cannot be compiled")
    for source in modules.rglob("*.py"):
        if str(source.relative_to(modules)) not in FOR_THE_NODE:
            source.unlink()


def _strip(files: Iterable[Path]) -> None:
    """Of what a debugger reads. The BPF programs keep their BTF, which is no such thing."""
    ours = [str(file) for file in files if file.suffix != ".o"]
    subprocess.run(["llvm-strip", "--strip-unneeded", *ours], check=True)


def _licences(directory: Path, parts: Iterable[Part]) -> None:
    """What wheels say of theirs stands in their metadata."""
    shutil.copytree(ROOT / "LICENSES", directory / "ktrace")
    shutil.copy(ROOT / "LICENSE", directory / "ktrace")
    for part in parts:
        if part.purl.startswith("pkg:deb/"):
            _copy(Path("/usr/share/doc", part.name, "copyright"), directory / part.name)


def _sbom(version: str, parts: Iterable[Part]) -> str:
    """CycloneDX 1.5, https://cyclonedx.org/docs/1.5/json/."""
    components = [
        {
            "type": "library",
            "name": part.name,
            "version": part.version,
            "purl": part.purl,
            "licenses": [{"license": {"name": part.licence}}],
        }
        for part in {part.purl: part for part in parts}.values()
    ]
    about = {"type": "application", "name": "ktrace", "version": version}
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": about},
        "components": components,
    }
    return json.dumps(document, indent=1) + "\n"


def _python(found: importlib.metadata.Distribution) -> Part:
    about = found.metadata
    licence = about["License-Expression"] or about["License"] or "see its metadata"
    name = about["Name"]
    return Part(name, found.version, f"pkg:pypi/{name.lower()}@{found.version}", licence[:100])


def _debian(package: str) -> Part:
    version, source, machine = (
        _said("dpkg-query", "-W", "-f", "${Version}\t${source:Package}\t${Architecture}\n", package)
        .splitlines()[0]
        .split("\t")
    )
    purl = f"pkg:deb/debian/{package}@{version}?arch={machine}&upstream={source}"
    return Part(package, version, purl, f"see licences/{package}")


def _owner(file: Path) -> str:
    """The package that brought it. On a merged /usr the database may know the older path."""
    for path in (file, Path("/", *file.parts[2:])):
        found = subprocess.run(
            ["dpkg-query", "-S", str(path)], capture_output=True, text=True, check=False
        )
        if found.returncode == 0:
            return found.stdout.split(":")[0]
    raise BuildError(f"no package of this Debian has brought {file}")


def _needed(file: Path) -> Iterator[tuple[str, Path]]:
    """As ldd(1) finds it here."""
    told = subprocess.run(["ldd", str(file)], capture_output=True, text=True, check=False).stdout
    for line in told.splitlines():
        if found := re.search(r"(?:(\S+) => )?(/\S+) \(0x", line):
            place = Path(found[2]).resolve()
            yield found[1] or Path(found[2]).name, place


def _by_name(name: str) -> Path:
    told = _said("/sbin/ldconfig", "-p")
    found = re.search(rf"^\s*{re.escape(name)} .*=> (\S+)$", told, re.MULTILINE)
    if found is None:
        raise BuildError(f"{name} is not installed")
    return Path(found[1]).resolve()


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = made_at()
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
