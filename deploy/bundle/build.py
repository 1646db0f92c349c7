# SPDX-License-Identifier: Apache-2.0
"""A directory with everything that ktrace needs: interpreter, C library, loader, other libraries.

It runs on a system with no Python, an old one, or no C library at all. The interpreter and the
libraries are Debian's, of any architecture; the rest comes from wheels. Nothing in it depends on
the place or time of the build, so two builds of one commit are identical.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from deploy import ROOT, BuildError, made_at, version
from deploy.architecture import Architecture
from deploy.bundle.elf import is_elf
from deploy.bundle.system import INTERPRETER, PYTHON, Package, System, system
from deploy.debian import Say
from deploy.wheel.sysroot import compile_c, compiler

# The C libraries that dependencies' wheels may need: none newer than the bundle's own.
PLATFORMS = (
    "manylinux_2_17",
    "manylinux2014",
    "manylinux_2_24",
    "manylinux_2_26",
    "manylinux_2_28",
)
LEVEL = 19
# What is promised of a packed bundle's size.
MAX_PACKED = 17_000_000
# The launcher's name as the plugin of kubectl.
PLUGIN = "kubectl-ktrace"
# Run by the node's own Python, of any version.
FOR_THE_NODE = ("tracer/backends/bcc/worker.py",)

# In a fixed order. Compiled files are never compared with their sources, which would cost a stat(2)
# for each module.
COMPILE = """
import compileall, py_compile, sys
sys.exit(not compileall.compile_dir(
    sys.argv[1], quiet=1, stripdir=sys.argv[2], legacy=True, optimize=0, workers=1,
    invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
))
"""

# The parts of the standard library that a tracer never imports.
LEFT_OUT = re.compile(
    r"(test|idlelib|lib2to3|tkinter|turtle|turtledemo|ensurepip|distutils|venv|pydoc|pydoc_data|curses"
    r"|dbm|xmlrpc|lzma|bz2|doctest|cProfile|profile|pstats|imaplib|ftplib|poplib"
    r"|smtplib|nntplib|telnetlib|mailbox|mailcap|sitecustomize|webbrowser|antigravity|this|crypt|sunau"
    r"|aifc|chunk|dist-packages|config-.*)(\.py)?"
)
EXTENSIONS_LEFT_OUT = re.compile(
    r"(_bz2|_codecs_(cn|hk|iso2022|jp|kr|tw)|_crypt|_curses.*|_dbm|_hashlib|_lsprof|_lzma"
    r"|_multibytecodec|_test.*|_ctypes_test|_uuid|_?xx.*|audioop|nis|ossaudiodev|readline)\..*"
)
# Files of wheels: alternative implementations, files for compilers and type checkers, certificates.
FILES_LEFT_OUT = re.compile(
    r"__pycache__/|^(?!tracer/).*((^|/)(tests?|bin|include)/|\.(pyi|c|h|pyx|pxd|typed)$)"
    r"|roots\.pem$|^pygments/lexers/(?!__init__|_mapping|python\.py)|^zstandard/_cffi"
)
# Texts of licences in a wheel's metadata: PEP 639 puts them into a folder, older wheels beside it.
LICENCE = re.compile(r"\.dist-info/(.*/)?(licen[sc]e|copying|notice|authors)[^/]*$", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """A component of the bundle from another project."""

    name: str
    version: str
    purl: str
    licence: str


def directory_name(architecture: Architecture) -> str:
    return f"ktrace-{version()}-{architecture.machine}"


def build(wheel: Path, architecture: Architecture, into: Path, say: Say) -> Path:
    """Returns the bundle's directory, below `into`."""
    root = into.absolute() / directory_name(architecture)  # the compiler runs elsewhere
    shutil.rmtree(root, ignore_errors=True)
    modules = root / "lib" / PYTHON
    modules.mkdir(parents=True)
    debian = system(architecture, say)
    say("the interpreter")
    parts = [*_interpreter(debian, root, modules)]
    say("the wheels")
    parts += _wheels(wheel, architecture, modules, root / "licences")
    say("the libraries")
    packages = _libraries(debian, root)
    parts += map(_debian, packages)
    say("the launcher")
    _launcher(architecture, root, say)
    say("stripping and compiling")
    _strip(path for path in root.rglob("*") if path.is_file() and is_elf(path))
    _compile(modules)
    (root / PLUGIN).symlink_to("ktrace")
    carried = modules / "tracer" / "libraries"
    _licences(root / "licences", debian, parts, carried / "licences")
    sbom = _sbom(parts, json.loads((carried / "sbom.cdx.json").read_text()))
    (root / "sbom.cdx.json").write_text(sbom)
    set_modes(root)
    return root


def pack(root: Path) -> Path:
    """Packs it as NAME.tar.zst, without owner and times. Raises `BuildError` if it has grown."""
    target = root.with_name(f"{root.name}.tar.zst")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in [root, *sorted(root.rglob("*"))]:
            archive.add(path, path.relative_to(root.parent), recursive=False, filter=anonymous)
    packed = zstandard.ZstdCompressor(level=LEVEL).compress(buffer.getvalue())
    if len(packed) > MAX_PACKED:
        raise BuildError(f"{target.name} has {len(packed) / 1e6:.1f} MB: what came into it?")
    target.write_bytes(packed)
    return target


def checksums(directory: Path) -> None:
    """Writes SHA256SUMS in the format of sha256sum(1)."""
    files = sorted(path for path in directory.iterdir() if path.is_file())
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in files
        if path.name != "SHA256SUMS"
    ]
    (directory / "SHA256SUMS").write_text("".join(lines))


def set_modes(root: Path) -> None:
    """Modes that do not depend on who builds: all may read, and execute what is a program."""
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _interpreter(debian: System, root: Path, modules: Path) -> Iterator[Part]:
    (root / "bin").mkdir()
    shutil.copy(debian.root / "usr" / "bin" / PYTHON, root / "bin" / PYTHON)
    library = debian.root / "usr" / "lib" / PYTHON
    for path in sorted(library.rglob("*")):
        inside = path.relative_to(library)
        if path.suffix == ".so":
            wanted = not EXTENSIONS_LEFT_OUT.fullmatch(path.name)
        else:
            wanted = path.suffix == ".py" and not LEFT_OUT.fullmatch(inside.parts[0])
        if wanted:
            _copy(path, modules / inside)
    for package in INTERPRETER:
        yield _debian(debian.package(package))


def _wheels(wheel: Path, architecture: Architecture, modules: Path, licences: Path) -> list[Part]:
    """Installs ktrace's wheel and its dependencies into the directory of the standard library:
    every import would have to search a second one. Their licences go to the others."""
    platforms = [
        word for one in PLATFORMS for word in ("--platform", f"{one}_{architecture.machine}")
    ]
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "-qq", "--no-compile"),
                *("--disable-pip-version-check", "--root-user-action=ignore"),
                *("--python-version", PYTHON.removeprefix("python"), *platforms),
                *("--target", scratch, "--only-binary=:all:", f"{wheel}[agent]"),
            ],
            check=True,
        )
        found = [_python(d) for d in importlib.metadata.distributions(path=[scratch])]
        for path in sorted(Path(scratch).rglob("*")):
            inside = str(path.relative_to(scratch))
            if path.is_file() and LICENCE.search(inside):
                _copy(path, licences / project(inside.partition("-")[0]) / path.name)
            if not path.is_file() or FILES_LEFT_OUT.search(inside):
                continue
            if ".dist-info/" in inside and not inside.endswith(("/METADATA", "entry_points.txt")):
                continue
            _copy(path, modules / inside)
    return sorted(found, key=lambda part: part.name)


def _libraries(debian: System, root: Path) -> list[Package]:
    """Copies the libraries that the programs and modules need. Returns their packages."""
    program = root / "bin" / PYTHON
    loader = debian.loader(program)
    found = debian.libraries(path for path in root.rglob("*") if path.is_file())
    for name, place in found.items():
        if place != loader:
            _copy(place, root / "lib" / name)
    _copy(loader, root / "lib" / "ktrace")
    (root / "lib" / "ktrace").chmod(0o755)
    owners = {one.name: one for one in map(debian.owner, [loader, *found.values()])}
    return [owners[name] for name in sorted(owners)]


def _launcher(architecture: Architecture, root: Path, say: Say) -> None:
    source = Path(__file__).with_name("launcher.c")
    flags = ["-O2", "-static", "-s", "-Wall", "-Wextra", "-Werror", f'-DPYTHON="{PYTHON}"']
    flags += [f"-ffile-prefix-map={source.parent}=.", "-Wl,--build-id=none"]
    target = f"{architecture.machine}-linux-musl"
    output = ["-o", str(root / "ktrace")]
    compile_c(compiler(say), target, [*flags, str(source), *output], root)


def _compile(modules: Path) -> None:
    """In an interpreter of its own, with nothing in it but what it compiles: objects that happen to
    exist already change how modules are written."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", COMPILE, str(modules), str(modules.parent)],
        env={"PYTHONHASHSEED": "0"},
        check=False,
    )
    if done.returncode:
        raise BuildError("some modules of the bundle cannot be compiled")
    for source in modules.rglob("*.py"):
        if str(source.relative_to(modules)) not in FOR_THE_NODE:
            source.unlink()


def _strip(files: Iterable[Path]) -> None:
    """Removes debug information. BPF programs keep their BTF, which is none."""
    ours = [str(file) for file in files if file.suffix != ".o"]
    subprocess.run(["llvm-strip", "--strip-unneeded", *ours], check=True)


def _licences(directory: Path, debian: System, parts: Iterable[Part], carried: Path) -> None:
    """Copies the licences of all but the wheels. `carried` holds those of the libraries inside
    ktrace's wheel."""
    shutil.copytree(ROOT / "LICENSES", directory / "ktrace", dirs_exist_ok=True)
    shutil.copy(ROOT / "LICENSE", directory / "ktrace")
    shutil.copytree(carried, directory, dirs_exist_ok=True)
    shutil.rmtree(carried)
    for part in parts:
        if part.purl.startswith("pkg:deb/"):
            about = debian.root / "usr" / "share" / "doc" / part.name / "copyright"
            _copy(about.resolve(), directory / part.name)


def _sbom(parts: Iterable[Part], carried: dict[str, Any]) -> str:
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
    about = {"type": "application", "name": "ktrace", "version": version()}
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": about},
        "components": [*components, *carried["components"]],
    }
    return json.dumps(document, indent=1) + "\n"


def _python(found: importlib.metadata.Distribution) -> Part:
    about = found.metadata
    name = about["Name"]
    licence = about["License-Expression"] or about["License"] or f"see licences/{project(name)}"
    return Part(name, found.version, f"pkg:pypi/{name.lower()}@{found.version}", licence[:100])


def project(name: str) -> str:
    """As the files of a wheel are named."""
    return re.sub(r"[-_.]+", "_", name).lower()


def _debian(package: Package) -> Part:
    about = f"?arch={package.architecture}&upstream={package.source}"
    purl = f"pkg:deb/debian/{package.name}@{package.version}{about}"
    return Part(package.name, package.version, purl, f"see licences/{package.name}")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without owner and time."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = made_at()
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member
