# SPDX-License-Identifier: Apache-2.0
"""What surrounds BCC: finding it, the text that it compiles, what is written into programs, its
process and what that says. That programs work is for the lab's guests: tests/backends/test_bcc.py.
"""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.same_events import DOCUMENTED_NULLS
from tracer import probes
from tracer.backends import bcc, toolchain
from tracer.backends.bcc import programs as bcc_programs
from tracer.backends.bcc.programs import (
    KEPT,
    Compiled,
    Refused,
    Site,
    Worker,
    cache_name,
    fill_in,
    keep,
    last_words,
    read_kept,
)
from tracer.backends.bcc.text import MARK, READ_FIRST, READ_LAST, UNREAD, look_for, make_text
from tracer.backends.objects import Objects

EVERY = [probes.get(name) for name in probes.names()]


# Finding it


def test_the_package_is_known_by_its_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyPI's package has the same name."""
    other, real = tmp_path / "python3" / "bcc", tmp_path / "python3.9" / "bcc"
    monkeypatch.setattr(bcc, "PACKAGES", (str(other), str(tmp_path / "python3.*" / "bcc")))
    assert bcc.find_package() is None
    for directory in (other, real):
        directory.mkdir(parents=True)
        (directory / "__init__.py").touch()
    assert bcc.find_package() is None
    (real / "libbcc.py").touch()
    assert bcc.find_package() == real


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that has everything."""
    monkeypatch.setattr(bcc, "find_package", lambda: Path("/there"))
    monkeypatch.setattr(toolchain, "lacking_headers", list)
    monkeypatch.setattr(toolchain, "lockdown", lambda: None)
    monkeypatch.setattr(toolchain, "family", lambda: "debian")
    monkeypatch.setattr(bcc, "KPROBES", Path("/"))


@pytest.mark.usefixtures("complete")
def test_nothing_is_lacking() -> None:
    assert bcc.lacking(None) == []
    assert [bcc.lacking(probe) for probe in EVERY] == [[]] * len(EVERY)


@pytest.mark.usefixtures("complete")
def test_lacking_is_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bcc, "find_package", lambda: None)
    monkeypatch.setattr(toolchain, "lockdown", lambda: "confidentiality")
    package, lockdown = bcc.lacking(None)
    assert package.remedy == "apt-get install python3-bpfcc"
    assert "lockdown" in lockdown.what


@pytest.mark.usefixtures("complete")
def test_without_kprobes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Counters need no program, tracepoints no kprobes."""
    monkeypatch.setattr(bcc, "KPROBES", tmp_path / "none")
    assert [probe.name for probe in EVERY if bcc.lacking(probe)] == []
    sections = {"entry": "kprobe/x", "trampoline": "fentry/x", "raw": "tp_btf/x"}
    points = {
        name: bcc._is_possible(probes.AttachPoint(name, (name,)), sections) for name in sections
    }
    assert points == {"entry": False, "trampoline": False, "raw": True}


# The text


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """Where headers are, two of them."""
    include = tmp_path / "build" / "include" / "linux"
    include.mkdir(parents=True)
    (include / "kernfs.h").write_text("struct kernfs_node {\n\tstruct kernfs_node\t*parent;\n};\n")
    common = tmp_path / "source" / "include" / "linux"
    common.mkdir(parents=True)
    (common / "cgroup-defs.h").write_text(
        "struct cgroup { struct cgroup *ancestors[]; };\n"
        "struct sock_cgroup_data {\n\tstruct cgroup /* v2 */ *cgroup; // and so on\n};\n"
    )
    return tmp_path / "build"


def text_of(build: Path, ring: bool = True) -> str:
    return bcc.text_of(Objects(), bcc.objects_of(EVERY), build, ring)


def defined(text: str) -> dict[str, str]:
    return dict(re.findall(r"^#define (\w+) (.*)$", text, re.MULTILINE))


def test_headers_decide_what_is_present(build: Path) -> None:
    found = {k: v for k, v in defined(text_of(build)).items() if k.startswith("KT_HAS_")}
    assert found["KT_HAS_kernfs_rcu_parent"] == "0"
    assert found["KT_HAS_cgroup_ancestors"] == "1"
    assert found["KT_HAS_socket_cgroup"] == "1"
    assert found["KT_HAS_backlog_reason"] == "0"


def test_every_question_is_answered(build: Path) -> None:
    text = text_of(build)
    asked = set(re.findall(r"KT_CHOOSE\([\s\\]*(\w+),", text)) - {"name"}
    assert asked >= {"oom_group", "victim_task", "rss_percpu"}
    assert {f"KT_HAS_{name}" for name in asked} <= defined(text).keys()


def test_maps_and_settings_are_numbers(build: Path) -> None:
    shipped, names = Objects(), bcc.objects_of(EVERY)
    told = defined(text_of(build))
    for number, name in enumerate(bcc.shapes_of(shipped, names, True)):
        assert told[name] == f"KT_MAP_AT({number})"
    for number, (name, value) in enumerate(bcc.values_of(shipped, names, {}).items()):
        width = "u64" if len(value) == 8 else "u32"
        assert told[name] == f"(({width})KT_SETTING_AT({number}))"


def test_settings_have_their_defaults_and_what_is_set() -> None:
    shipped, names = Objects(), bcc.objects_of(EVERY)
    values = bcc.values_of(shipped, names, {"kt_mode": 2, "kt_reset_reasons": 1 << 100})
    assert values["kt_mode"] == (2).to_bytes(4, "little")
    assert values["kt_signal_mask"] == b"\xff" * 8
    assert values["kt_kind_signal"] == shipped.kinds["signal"].to_bytes(4, "little")
    assert "kt_reset_reasons" not in values


def test_the_order_of_probes_does_not_matter(build: Path) -> None:
    """What was compiled for `exits,signals` serves `signals,exits`."""
    names = bcc.objects_of(reversed(EVERY))
    assert bcc.text_of(Objects(), names, build, True) == text_of(build)


def test_kernel_types_are_the_kernels(build: Path) -> None:
    """Nothing is left of our declarations, their flavours, or what only libbpf has."""
    text = text_of(build)
    assert "preserve_access_index))" not in text
    assert not re.search(r"\b(struct|enum) \w+___\w+", text)
    assert "#include <bpf/" not in text
    includes = re.findall(r"^#include.*$", text, re.MULTILINE)
    assert len(includes) == len(set(includes))
    assert text.startswith(f"#ifdef {READ_LAST}\n{includes[0]}\n")
    assert text.index(includes[-1]) < text.index("#define KT_BCC")


def test_before_the_last_time_only_names_are_read(build: Path) -> None:
    """BCC would parse all headers three times; it looks for programs by name the second time."""
    head, _, names = text_of(build).rpartition("\n#else\n")
    assert head.startswith(f"#ifdef {READ_LAST}\n")
    assert "BPF_PROG(on_signal_generate" in head
    shipped = Objects()
    programs = [p for name in bcc.objects_of(EVERY) for p in shipped.open(name).programs]
    assert re.findall(r"^int (\w+)\(void \*context\) { return 0; }$", names, re.MULTILINE) == [
        *programs,
        UNREAD,
    ]


def test_lines_are_named_after_their_sources(build: Path) -> None:
    """What the compiler complains about can be found: the line before which it says so."""
    text = text_of(build).splitlines()
    source = (Path("probes") / "oom.bpf.c").read_text().splitlines()
    wanted = "static __always_inline int on_entry(struct oom_control *oc)"
    at = text.index(wanted)
    name, line = "", 0
    for number in range(at, -1, -1):
        if found := re.fullmatch(r'#line (\d+) "(.*)"', text[number]):
            name, line = found[2], int(found[1]) + at - number - 1
            break
    assert (name, line) == ("oom.bpf.c", source.index(wanted) + 1)


@given(words=st.lists(st.sampled_from(["struct", "a", "*b;", "[]", "/* c */"]), min_size=1))
def test_white_space_and_comments_do_not_count(
    words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("include")
    (directory / "x.h").write_text("\n\t ".join(words))
    bare = " ".join(word for word in words if "/*" not in word) or "?"
    asked = f'KT_PRESENT(one, "y.h x.h", "{bare}");\nKT_PRESENT(two, "x.h",\n\t"{bare}!");'
    assert dict(look_for(asked, [directory])) == {"one": bare != "?", "two": False}


def test_the_sources_are_shipped() -> None:
    """As the objects are; a source that was edited needs `make install`."""
    shipped = Path("tracer/sources")
    for source in Path("probes").rglob("*.[ch]"):
        assert (shipped / source.relative_to("probes")).read_text() == source.read_text()


# What is written into programs


def load_64(constant: int, source: int = 0) -> bytes:
    low, high = constant & 0xFFFFFFFF, constant >> 32
    return struct.pack("<BBHIBBHI", 0x18, source << 4, 0, low, 0, 0, 0, high)


EXIT = bytes.fromhex("9500000000000000")
u64 = st.integers(0, 2**64 - 1)


@given(
    descriptors=st.lists(st.integers(3, 1 << 20), min_size=1, max_size=5),
    settings=st.lists(u64, min_size=1, max_size=5),
    other=u64.filter(lambda constant: constant >> 16 != MARK),
)
def test_numbers_become_what_they_stand_for(
    descriptors: list[int], settings: list[int], other: int
) -> None:
    maps, values = range(len(descriptors)), range(len(settings))
    before = [load_64(n, 1) for n in maps] + [load_64(MARK << 16 | n) for n in values]
    after = [load_64(fd, 1) for fd in descriptors] + [load_64(value) for value in settings]
    untouched = [load_64(other), EXIT]
    filled = fill_in(b"".join([*before, *untouched]), descriptors, settings)
    assert filled == b"".join([*after, *untouched])


# What was compiled


COMPILED = Compiled({"one": b"\x01\x02", "two": b""}, 0x050A00)


def test_what_was_compiled_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "x.json"
    assert read_kept(path) is None
    keep(path, COMPILED)
    assert read_kept(path) == COMPILED
    assert path.parent.stat().st_mode & 0o777 == 0o700


@given(content=st.binary() | st.sampled_from([b"[]", b"{}", b'{"programs": {"a": 1}}', b"null"]))
def test_a_cache_that_is_damaged(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("cache") / "x.json"
    path.write_bytes(content)
    assert read_kept(path) is None


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    for number in range(KEPT + 3):
        keep(tmp_path / f"{number}.json", COMPILED)
    assert len(list(tmp_path.iterdir())) == KEPT
    assert (tmp_path / f"{KEPT + 2}.json").exists()


def test_what_the_cache_depends_on(tmp_path: Path) -> None:
    generated = tmp_path / "include" / "generated" / "uapi" / "linux"
    generated.mkdir(parents=True)
    names = {cache_name("text", "6.1", tmp_path, tmp_path)}
    names |= {cache_name("other", "6.1", tmp_path, tmp_path)}
    names |= {cache_name("text", "6.2", tmp_path, tmp_path)}
    for file in (generated / "version.h", tmp_path / "version.py"):
        file.write_text("new")
        names |= {cache_name("text", "6.1", tmp_path, tmp_path)}
    assert len(names) == 5


# The other process

BCC = """
import ctypes, os, signal, sys, time

names = [b"one"]

class lib:
    bpf_num_functions = staticmethod(lambda module: len(names))
    bpf_function_name = staticmethod(lambda module, number: names[number])
    bpf_module_kern_version = staticmethod(lambda module: 7)

class BPF:
    module = None
    def __init__(self, text, cflags):
        print("stray output")
        {compiling}
    def dump_func(self, name):
        return b"\\x01\\x02"
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[[str], Worker]]:
    """Makes one whose BCC does this when it compiles."""
    started: list[Worker] = []

    def start(compiling: str) -> Worker:
        (tmp_path / "__init__.py").write_text(BCC.format(compiling=compiling))
        started.append(Worker(tmp_path, ()))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_what_comes_back(worker: Callable[[str], Worker]) -> None:
    assert worker("pass").compile("int x;") == Compiled({"one": b"\x01\x02"}, 7)


def test_a_bcc_that_does_not_tell_the_last_time(worker: Callable[[str], Worker]) -> None:
    """What it gave is not what is to run: it compiles again, by another way."""
    told = f"names[:] = [b'one', b'{UNREAD}'] if '-D{READ_FIRST}' in cflags else [b'two']; "
    again = "assert names != [b'two'] or open(text.split(chr(34))[1]).read() == 'int x;'"
    assert worker(told + again).compile("int x;") == Compiled({"two": b"\x01\x02"}, 7)


@pytest.mark.parametrize(
    ("compiling", "words"),
    [
        (
            "os.write(2, b'note\\na.c:3:1: error: this\\nx\\n'); raise Exception('Failed')",
            "Failed: a.c:3:1: error: this",
        ),
        (
            "os.write(2, b'LLVM ERROR\\n'); os.kill(os.getpid(), 11)",
            "BCC ended with -11: LLVM",
        ),
        ("os._exit(3)", "BCC ended with 3: stray output"),
    ],
    ids=["refused", "crashed", "gone"],
)
def test_what_bcc_says(worker: Callable[[str], Worker], compiling: str, words: str) -> None:
    with pytest.raises(Refused) as refused:
        worker("sys.stdout.flush(); " + compiling).compile("int x;")
    assert words.partition(":")[0] in refused.value.message
    assert words.rpartition(": ")[2] in refused.value.message


def test_a_bcc_that_hangs(worker: Callable[[str], Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = worker("time.sleep(1000)")
    monkeypatch.setattr(bcc_programs, "PATIENCE_SECONDS", 0.1)
    with pytest.raises(Refused, match=r"did not answer for 0\.1 s"):
        hanging.compile("int x;")


def test_a_package_that_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text("raise ImportError('libbcc.so.0: cannot open')")
    broken = Worker(tmp_path, ())
    with pytest.raises(Refused, match=r"libbcc\.so\.0: cannot open"):
        broken.compile("int x;")
    broken.close()


def test_a_program_that_is_not_for_bcc() -> None:
    programs = bcc_programs.Programs(Path("/nowhere"), (), (), interrupt=-1)
    with pytest.raises(Refused, match="on_send_reset_with_reason is not for kernels without BTF"):
        programs.attach([Site("on_send_reset_with_reason", "raw_tracepoint", "tcp_send_reset")])


@given(st.text())
def test_last_words_are_one_line(log: str) -> None:
    words = last_words(log)
    assert len(words) <= 1000
    assert len(words.splitlines()) <= 1


def test_errors_come_before_last_lines() -> None:
    log = "a\nx.c:1: error: one\nb\nx.c:2: error: two\n2 errors generated.\n"
    assert last_words(log) == "x.c:1: error: one | x.c:2: error: two"
    assert last_words("a\nb\nc\n\nd\n") == "b | c | d"


def test_names_are_unique_over_all_sources(build: Path, tmp_path: Path) -> None:
    """As BCC compiles all of them in one text. Here clang does, in the way of the core backend."""
    text = "".join(f'#include "{path.resolve()}"\n' for path in Path("probes").glob("*.bpf.c"))
    command = ["clang", "-fsyntax-only", "-target", "bpf", "-g", "-D__TARGET_ARCH_x86", "-xc", "-"]
    command += ["-I/usr/include/x86_64-linux-gnu", "-Iprobes/include"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    wrong = [line for line in done.stderr.splitlines() if "error:" in line]
    assert [line for line in wrong if "kt_kind_" not in line and "kt_layout_" not in line] == []


def test_make_text_without_ring_buffers(build: Path) -> None:
    told = defined(text_of(build, ring=False))
    assert {"KT_SPOOL", "kt_slots", "kt_slots_used"} <= told.keys() | {"KT_SPOOL"}
    assert "#define KT_SPOOL\n" in text_of(build, ring=False)
    assert "#define KT_SPOOL\n" not in text_of(build)
    assert make_text(["context"], ["p"], ["m"], {"s": 1}, build, ring=True)


def test_a_header_that_not_every_kernel_has(build: Path) -> None:
    """Its condition goes with it to the front."""
    guarded = "#if __has_include(<linux/filelock.h>)\n#include <linux/filelock.h>\n#endif\n"
    text = make_text(["context", "locks"], ["p"], ["m"], {"s": 1}, build, ring=True)
    assert text.count("<linux/filelock.h>") == 2
    assert text.index(guarded) < text.index("#define KT_BCC")


def test_documented_nulls_are_documented() -> None:
    """What the comparison of backends lets pass is what docs/compatibility.md says."""
    text = Path("docs/compatibility.md").read_text()
    rows = re.findall(r"^\| (\w+) \| `([a-z_]+\.[a-z_]+)` \|", text, re.MULTILINE)
    told = {(backend, key) for backend, keys in DOCUMENTED_NULLS.items() for key in keys}
    assert set(rows) == told
