# SPDX-License-Identifier: Apache-2.0
"""A guest's boot files: one disk for all kernels, and a small initramfs for each kernel.

The disk is an image of this machine: the project, its Python and the programs that the tests use
lie at the same paths, so nothing needs to know that it runs in a guest.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.kernels import Kernel, LabError

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
PROJECT_PARTS = ("tracer", "tests", "bench", "deploy", "pyproject.toml")

TESTS_MODULE = "tests.lab.guest"

# Debian packages whose programs a guest gets from this machine
PROGRAM_PACKAGES = ("bash", "coreutils", "dash", "iproute2", "mount", "procps", "util-linux")
PROGRAM_DIRECTORIES = ("bin", "sbin", "cni")
DISTRIBUTIONS = ("ktrace", "grpcio", "pytest", "pytest-rerunfailures", "pytest-timeout")
# loaded by name at run time, so no file's headers list them
LIBRARIES = ("libbpf.so.1", "libgcc_s.so.1")
STDLIB_UNUSED = (
    "test",
    "idlelib",
    "lib2to3",
    "ensurepip",
    "tkinter",
    "dist-packages",
    "site-packages",
    "turtledemo",
)

# A guest needs the first two; the others are for tests with network namespaces and containers.
MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "veth", "bridge", "dummy", "overlay")


@dataclass(frozen=True)
class Additions:
    """A guest's additions: files of this machine, the programs of Debian packages, and, by their
    path in the guest, directories from elsewhere and contents of files."""

    files: tuple[Path, ...] = ()
    trees: tuple[tuple[str, Path], ...] = ()
    packages: tuple[str, ...] = ()
    contents: tuple[tuple[str, bytes], ...] = ()

    def __add__(self, other: Additions) -> Additions:
        return Additions(
            self.files + other.files,
            self.trees + other.trees,
            self.packages + other.packages,
            self.contents + other.contents,
        )


def build_initramfs(kernel: Kernel, scratch: Path, busybox: Path | None = None) -> Path:
    """Modules are numbered in the order of loading. `busybox` is the guest's, if its architecture
    differs."""
    tree = scratch / f"initramfs-{kernel.release}"
    for directory in ("bin", "dev", "root", "modules"):
        (tree / directory).mkdir(parents=True)
    shutil.copy(busybox or _busybox(), tree / "bin" / "busybox")
    _write_program(tree / "init", (HERE / "initramfs.sh").read_bytes())
    modules = {name: data for wanted in MODULES for name, data in kernel.module(wanted)}
    for number, (name, data) in enumerate(modules.items()):
        (tree / "modules" / f"{number:02}-{name}.ko").write_bytes(data)
    names = "".join(f"{path.relative_to(tree)}\n" for path in sorted(tree.rglob("*")))
    packed = subprocess.run(
        [_busybox(), "cpio", "-o", "-H", "newc"],
        cwd=tree,
        input=names.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    image = scratch / f"initramfs-{kernel.release}.gz"
    image.write_bytes(gzip.compress(packed.stdout, 1))
    shutil.rmtree(tree)
    return image


def build_disk(
    arguments: Sequence[str],
    scratch: Path,
    *,
    module: str = TESTS_MODULE,
    backends: Sequence[str] = ("core",),
    additions: Additions = Additions(),
) -> Path:
    """Guests of this disk run a module's main program with these arguments, by default these tests,
    and then switch themselves off. The tests get the list of backends in the guest; the first is
    the one it is for."""
    tree = scratch / "disk"
    for directory in ("dev", "proc", "sys", "run", "root", "lab"):
        (tree / directory).mkdir(parents=True)
    (tree / "tmp").mkdir(mode=0o1777)
    _usr_layout(tree)
    programs = _programs((*PROGRAM_PACKAGES, *additions.packages))
    files = [_busybox(), *programs, *_python(), *_project(), *additions.files]
    for path in [*files, *_needed_libraries(files)]:
        _copy(path, tree)
    for place, source in additions.trees:
        shutil.copytree(source, tree / place.lstrip("/"), symlinks=True, dirs_exist_ok=True)
    for name, data in additions.contents:
        (tree / name.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        _write_program(tree / name.lstrip("/"), data)
    program = shlex.join([sys.executable, "-m", module])
    told = f"KTRACE_LAB_BACKEND={backends[0]} KTRACE_LAB_BACKENDS='{' '.join(backends)}'"
    order = f"cd {shlex.quote(str(PROJECT))} && export {told} && "
    order += f'{program} "$results" {shlex.join(arguments)}\n'
    (tree / "lab" / "tests").write_text(order)
    _compile(tree)
    if module == TESTS_MODULE:
        _rewrite(arguments, tree, scratch / "rewritten")
    return finish(tree, scratch)


def finish(tree: Path, scratch: Path) -> Path:
    """Makes a file system of the tree, with the init program, and removes the tree."""
    _write_program(tree / "lab" / "init", (HERE / "init.sh").read_bytes())
    if not shutil.which("mke2fs"):
        raise LabError("the guests' disk needs mke2fs: apt-get install e2fsprogs")
    image = scratch / "disk.img"
    # larger than its content, because tests write files and a full disk is no finding
    megabytes = (
        sum(p.lstat().st_size for p in tree.rglob("*") if p.is_file()) // 1_000_000 * 2 + 128
    )
    options = ["-q", "-t", "ext4", "-O", "^has_journal"]
    subprocess.run(
        ["mke2fs", *options, "-d", str(tree), str(image), f"{megabytes}M"],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    shutil.rmtree(tree)
    return image


def _compile(tree: Path) -> None:
    """Compiles here at once what would take a guest seconds each."""
    project = [tree / str(PROJECT / part)[1:] for part in PROJECT_PARTS]
    command = [sys.executable, "-m", "compileall", "-q", "-s", str(tree), "-p", "/"]
    subprocess.run([*command, *(str(path) for path in project if path.is_dir())], check=True)


def _rewrite(arguments: Sequence[str], tree: Path, place: Path) -> None:
    """Also precompiles pytest's rewritten tests, which lie beside Python's bytecode. Failures of
    another machine's tests are ignored here: the guest reports them."""
    program = "import sys; sys.dont_write_bytecode = False; sys.pycache_prefix = sys.argv.pop(1);"
    program += "import pytest; pytest.main()"
    quiet = ("--collect-only", "-qq", "-p", "no:cacheprovider")
    subprocess.run(
        [sys.executable, "-c", program, str(place), *quiet, *arguments],
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    for made in place.rglob("*-pytest-*.pyc"):
        there = tree / made.parent.relative_to(place)
        if (there / made.name.partition(".")[0]).with_suffix(".py").exists():
            (there / "__pycache__").mkdir(exist_ok=True)
            shutil.copy2(made, there / "__pycache__" / made.name)
    shutil.rmtree(place, ignore_errors=True)


def _write_program(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o755)


def _busybox() -> Path:
    found = shutil.which("busybox")
    if not found:
        raise LabError("the guests need busybox: apt-get install busybox-static")
    return Path(found)


def _usr_layout(tree: Path) -> None:
    """/bin, /lib … are links into /usr or directories, as on this machine."""
    for name in ("bin", "sbin", "lib", "lib64"):
        here = Path("/", name)
        if here.is_symlink():
            (tree / name).symlink_to(os.readlink(here))
            (tree / "usr" / name).mkdir(parents=True, exist_ok=True)


def _programs(packages: Sequence[str]) -> Iterator[Path]:
    listed = subprocess.run(
        ["dpkg", "-L", *packages], capture_output=True, text=True, check=False, timeout=60
    )
    if listed.returncode:
        raise LabError(f"the guests need these packages: apt-get install {' '.join(packages)}")
    for line in listed.stdout.splitlines():
        path = Path(line)
        if path.parent.name in PROGRAM_DIRECTORIES and path.is_file():
            yield path
    # whichever shell the administrator chose
    yield Path("/bin/sh")


def _python() -> Iterator[Path]:
    """The interpreter, its library, and the packages that the tests need."""
    yield Path(os.path.realpath(sys.executable))
    yield from _links(Path(sys.executable))
    if sys.prefix != sys.base_prefix:
        yield Path(sys.prefix, "pyvenv.cfg")
    stdlib = Path(sysconfig.get_path("stdlib"))
    for path in _files(stdlib):
        if path.relative_to(stdlib).parts[0] not in STDLIB_UNUSED:
            yield path
    for distribution in _with_requirements(DISTRIBUTIONS):
        for file in distribution.files or ():
            path = Path(os.path.normpath(str(distribution.locate_file(file))))
            if path.is_file():
                yield path


def _with_requirements(names: Iterable[str]) -> Iterator[importlib.metadata.Distribution]:
    """The distributions with their requirements, without extras."""
    waiting, seen = list(names), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # not for this platform or Python
            continue
        yield distribution
        for requirement in distribution.requires or ():
            if "extra ==" not in requirement:
                waiting.append(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])


def _project() -> Iterator[Path]:
    if not list((PROJECT / "tracer" / "objects").glob("*.bpf.o")):
        raise LabError("the BPF objects are not built: make install")
    for part in PROJECT_PARTS:
        path = PROJECT / part
        yield from _files(path) if path.is_dir() else [path]


def _files(directory: Path) -> Iterator[Path]:
    """Skips files that vanish meanwhile: other programs may be at work here."""
    return (path for path in directory.rglob("*") if path.is_file())


def _needed_libraries(files: Iterable[Path]) -> set[Path]:
    """The dynamic loader lists them, in one call for all files."""
    binaries = [str(path) for path in files if _is_elf(path)]
    listed = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False)
    needed = set(re.findall(r"(?:=>\s|^\s)(/\S+) \(0x", listed.stdout, re.MULTILINE))
    cached = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True)
    for name in LIBRARIES:
        found = re.search(
            rf"^\s{re.escape(name)} \(.*x86-64.*=> (/\S+)$", cached.stdout, re.MULTILINE
        )
        if not found:
            raise LabError(
                f"the guests need {name}, which this machine does not have: make install"
            )
        needed.add(found[1])
        also = subprocess.run(["ldd", found[1]], capture_output=True, text=True, check=True)
        needed |= set(re.findall(r"(?:=>\s|^\s)(/\S+) \(0x", also.stdout, re.MULTILINE))
    return {Path(path) for path in needed}


def _is_elf(path: Path) -> bool:
    if path.suffix in (".py", ".pyc"):
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _links(path: Path) -> Iterator[Path]:
    """A chain of symbolic links, without the final target."""
    while path.is_symlink():
        yield path
        path = path.parent / os.readlink(path)


def _copy(path: Path, tree: Path) -> None:
    """Keeps the times, which show that compiled Python is fresh. Links are copied with their
    targets."""
    for link in _links(path):
        target = tree / str(link.parent.resolve() / link.name)[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.is_symlink():
            target.symlink_to(os.readlink(link))
        path = link.parent / os.readlink(link)
    target = tree / str(path.resolve())[1:]
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copy2(path, target)
    except FileNotFoundError:  # a compiled file that another process has just replaced
        if path.suffix != ".pyc" and ".pyc." not in path.name:
            raise
