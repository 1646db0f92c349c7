# SPDX-License-Identifier: Apache-2.0
"""What happens to programs that people run, each with what is true of it: one row a case.

A row is data: the program, what is done to it, what really happens, and what `ktrace why` has to
say and must not say. Beside each stands one that looks like it and must not be taken for it. All of
them are in pods of their own and happen side by side, so what is done must not reach beyond a pod.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from tests.software.build import PLACE, USERS
from tests.software.clients import checks, comes_back, hangs_up, leaves, refused, resets
from tests.software.scene import (
    Step,
    asks,
    connects,
    dumps,
    ends,
    executed,
    fetches,
    fewer,
    gone,
    handles,
    kill,
    logs,
    named,
    reached,
    runs,
    serves,
    stop,
    suspended,
)

MIB = 1 << 20
PROGRAM = "/ends"


@dataclass(frozen=True, eq=False)
class Row:
    """As in `tests.support.judging.Expected`. `quick` rows are for every run of the tests; a `live`
    one is explained by a ktrace that watches its pod, and not from the recording."""

    name: str
    what: str
    argv: tuple[str, ...]
    does: tuple[Step, ...]
    verdict: str | None
    certainty: str | None
    says: tuple[str, ...]
    never: tuple[str, ...]
    also: tuple[str, ...]
    memory: int | None
    pids: int | None
    env: Mapping[str, str]
    quick: bool
    live: bool
    loop: bool = False
    container: str = "app"


ROWS: list[Row] = []


def row(
    name: str,
    what: str,
    argv: str,
    *does: Step,
    verdict: str | None,
    certainty: str | None = "certain",
    says: tuple[str, ...] = (),
    never: tuple[str, ...] = (),
    also: tuple[str, ...] = (),
    memory: int | None = None,
    pids: int | None = None,
    env: Mapping[str, str] | None = None,
    quick: bool = False,
    live: bool = False,
) -> None:
    """`argv` is split as a shell does it."""
    words = tuple(shlex.split(argv))
    one = (name, what, words, does, verdict, certainty, says, never, also, memory, pids, env or {})
    ROWS.append(Row(*one, quick, live))


NGINX = f"nginx -e stderr -c {PLACE}/nginx.conf"
REDIS = "redis-server --save '' --dir /tmp"
GUNICORN = f"gunicorn --chdir {PLACE} --worker-tmp-dir /tmp -b 0.0.0.0:8000 app:application"
UWSGI = (
    f"uwsgi --plugins python311 --master --need-app --http-socket :8000 --chdir {PLACE}"
    " --wsgi-file app.py"
)
CELERY = f"celery --workdir {PLACE} -A tasks worker --loglevel INFO --concurrency 1 -P prefork"
JAVA = f"java -cp {PLACE} -XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
NODE = f"node {PLACE}/server.js"
AS_POSTGRES = f"setpriv --reuid={USERS['postgres']} --clear-groups"
POSTGRES = (
    "sh -c 'cp -r /srv/postgres /tmp/data && chown -R postgres /tmp/data && chmod 700 /tmp/data"
    " && echo host all all all trust >>/tmp/data/pg_hba.conf"
    f" && exec {AS_POSTGRES} postgres -D /tmp/data -c fsync=off -k /tmp -h 0.0.0.0'"
)
PHP = f"php-fpm8.2 -F -y {PLACE}/php-fpm.conf"
HAPROXY = f"haproxy -W -f {PLACE}/haproxy.cfg"
PUMA = f"puma -C {PLACE}/puma.rb"
SUPERVISOR = f"supervisord -c {PLACE}/supervisord.conf"

row(
    "nginx-worker-killed",
    "a worker of nginx is killed from the host",
    NGINX,
    runs("worker process", 2),
    kill("KILL", "worker process"),
    gone,
    verdict="child_killed",
    says=("nginx", "host"),
    quick=True,
)
row(
    "redis-kill-host",
    "redis is killed from the host",
    REDIS,
    serves(6379),
    kill("KILL"),
    ends,
    verdict="killed_from_host",
    quick=True,
)
row(
    "redis-stop",
    "redis is stopped, and ends in time",
    REDIS,
    serves(6379),
    stop(10),
    ends,
    verdict="stopped_in_time",
    certainty=None,
)
row(
    "gunicorn-worker-crash",
    "a worker of gunicorn crashes",
    GUNICORN,
    serves(8000),
    runs("gunicorn", 1),
    asks(8000, "/crash"),
    gone,
    verdict="child_crashed",
    says=("SIGSEGV",),
    quick=True,
)
row(
    "postgres-backend-killed",
    "a process of PostgreSQL is killed by kubectl exec",
    POSTGRES,
    serves(5432),
    kill("KILL", "checkpointer", "exec"),
    gone,
    logs("all server processes terminated"),
    verdict="child_killed",
    certainty="likely",
)
row(
    "puma-stop",
    "puma is stopped",
    PUMA,
    serves(8000),
    stop(10),
    ends,
    verdict="stopped_in_time",
    certainty=None,
)
row(
    "node-handles",
    "node that handles SIGTERM",
    f"{NODE} handles",
    serves(8000),
    handles("TERM"),
    stop(10),
    ends,
    verdict="stopped_in_time",
    certainty=None,
    quick=True,
)
row(
    "cpp-terminate",
    "an exception in C++ that nobody catches",
    f"{PLACE}/throws",
    ends,
    verdict="aborted",
    certainty=None,
    quick=True,
)
row(
    "tini-stop",
    "tini passes SIGTERM on",
    "tini sleep 1000",
    runs("^sleep"),
    stop(10),
    ends,
    verdict="stopped_in_time",
    certainty=None,
    quick=True,
)
row(
    "dumb-init-stop",
    "dumb-init passes SIGTERM on",
    "dumb-init sleep 1000",
    runs("^sleep"),
    stop(10),
    ends,
    verdict="stopped_in_time",
    certainty=None,
)
row(
    "c-crash",
    "a program in C crashes",
    f"{PROGRAM} segv",
    ends,
    verdict="crashed",
    says=("SIGSEGV",),
    quick=True,
)
row(
    "sh-not-found",
    "a shell as PID 1 finds no such command",
    "sh -c 'exec no-such-server'",
    ends,
    verdict="exited",
    says=("not found",),
    never=("abort",),
    quick=True,
)
row(
    "sigstop-continued",
    "redis is stopped, goes on, and then ends in time",
    REDIS,
    serves(6379),
    kill("STOP"),
    suspended,
    kill("CONT"),
    stop(10),
    ends,
    verdict="stopped_in_time",
    certainty=None,
)
row(
    "npm-handles",
    "node itself, which handles SIGTERM, below tini",
    f"tini node {PLACE}/server.js handles",
    serves(8000),
    stop(10),
    ends,
    verdict="stopped_in_time",
    certainty=None,
)
row(
    "tini-child-does-not-end",
    "tini passes SIGTERM on, and its child does not end",
    "tini -- sh -c 'trap \"\" TERM; sleep 1000; sleep 1000'",
    runs("^sleep"),
    stop(2),
    ends,
    verdict="stop_unfinished",
    certainty=None,
    never=("put an init such as tini in front",),
)
row(
    "sh-c-stop",
    "a shell as PID 1 in front of a server",
    "sh -c 'redis-server --save \"\" --dir /tmp; echo done'",
    serves(6379),
    stop(2),
    ends,
    verdict="stop_ignored",
    certainty=None,
    says=("exec",),
)
row(
    "gunicorn-worker-oom",
    "a worker of gunicorn takes more than there is",
    GUNICORN,
    serves(8000),
    runs("gunicorn"),
    asks(8000, "/eat"),
    gone,
    verdict="oom_of_child",
    certainty=None,
    memory=96 * MIB,
)
row(
    "exec-probe-timeout",
    "an exec probe takes too long and is killed",
    REDIS,
    serves(6379),
    executed("sleep", "1000", timeout=1),
    executed("sleep", "1000", timeout=1),
    executed("sleep", "1000", timeout=1),
    stop(10),
    ends,
    verdict="stopped_in_time",
    certainty=None,
    says=("probe",),
)
row(
    "java-threads",
    "the JVM cannot make threads",
    f"{JAVA} -Xmx64m Java threads",
    ends,
    verdict="exited",
    certainty=None,
    says=("thread",),
    pids=60,
)
row(
    "exits-0",
    "a server that ends by itself",
    "sh -c 'redis-server --version'",
    ends,
    verdict="exited",
    says=("foreground",),
)
row(
    "child-code-at-once",
    "a shell passes its child's code on",
    "sh -c 'sh -c \"exit 7\"; exit $?'",
    ends,
    verdict="exited_after_child",
    certainty=None,
    quick=True,
)
row(
    "java-heap-above-limit",
    "a heap that may become larger than the container",
    f"{JAVA} -Xmx1g Java heap",
    ends,
    verdict="oom_container_limit",
    memory=128 * MIB,
    says=("-Xmx1g is above the limit of 128 MiB",),
    quick=True,
)
row(
    "java-direct",
    "direct buffers beside a small heap",
    f"{JAVA} -Xmx32m -XX:MaxDirectMemorySize=1g Java direct",
    ends,
    verdict="oom_container_limit",
    memory=128 * MIB,
    says=("direct buffers", "threads"),
    never=("above the limit",),
    quick=True,
)

row(
    "java-exit-on-oom",
    "the JVM leaves when its heap is full",
    f"{JAVA} -Xmx32m -XX:+ExitOnOutOfMemoryError Java heap",
    ends,
    verdict="exited",
    says=("OutOfMemoryError",),
    memory=256 * MIB,
    quick=True,
)
row(
    "java-leaves-3",
    "a program in Java that chose 3 itself",
    f"{JAVA} Java leave 3",
    ends,
    verdict="exited",
    never=("OutOfMemoryError",),
)
row(
    "java-uncaught",
    "the JVM's heap is full, and nobody catches that",
    f"{JAVA} -Xmx32m Java heap",
    ends,
    verdict="exited",
    memory=256 * MIB,
    says=("exception",),
)
row(
    "node-heap",
    "node's own heap limit",
    f"node --max-old-space-size=32 {PLACE}/server.js heap",
    ends,
    verdict="aborted",
    certainty=None,
    says=("V8", "max-old-space-size"),
)
row(
    "node-buffers",
    "buffers of node in a small container",
    f"node {PLACE}/server.js buffers",
    ends,
    verdict="oom_container_limit",
    memory=128 * MIB,
    says=("Buffer",),
)
row(
    "node-heap-above-limit",
    "node may take more than the container has",
    f"node --max-old-space-size=4096 {PLACE}/server.js heap",
    ends,
    verdict="oom_container_limit",
    memory=128 * MIB,
    says=("--max-old-space-size=4096 is above the limit of 128 MiB",),
)
row(
    "node-throws",
    "an exception in node that nobody catches",
    f"node {PLACE}/server.js throws",
    ends,
    verdict="exited",
    says=("exception",),
    quick=True,
)
row(
    "rust-panic-code",
    "a program that leaves with 101",
    f"{PROGRAM} exit 101",
    ends,
    verdict="exited",
    says=("Rust", "panic"),
    quick=True,
)

row(
    "timeout-124",
    "timeout(1) as PID 1",
    "timeout 1 sleep 1000",
    ends,
    verdict="exited",
    says=(r"timeout\(1\)|time was up",),
    quick=True,
)
row(
    "exit-124",
    "a program that chose 124 itself",
    f"{PROGRAM} exit 124",
    ends,
    verdict="exited",
    never=("time was up",),
    quick=True,
)

row(
    "shm-sigbus",
    "more shared memory than /dev/shm has",
    f"{PROGRAM} shm",
    ends,
    verdict="crashed",
    says=("/dev/shm", "64 MiB"),
    quick=True,
)
row(
    "nginx-term",
    "nginx is stopped, and cuts off what it serves",
    NGINX,
    serves(8000),
    stop(10),
    ends,
    verdict="stopped_in_time",
    certainty=None,
    says=("SIGQUIT", "fast"),
    quick=True,
)
row(
    "php-fpm-term",
    "php-fpm is stopped, and cuts off what it serves",
    PHP,
    serves(9000),
    stop(10),
    ends,
    verdict="stopped_in_time",
    certainty=None,
    says=("SIGQUIT", "fast"),
    quick=True,
)
row(
    "haproxy-stop",
    "haproxy is stopped",
    HAPROXY,
    serves(8000),
    handles("TERM"),
    stop(10),
    ends,
    verdict="stopped_in_time",
    certainty=None,
    quick=True,
)

row(
    "cron-stop",
    "cron as PID 1 has no handler of SIGTERM",
    "sh -c 'mkdir -p /run /var/run /var/spool/cron/crontabs; exec cron -f'",
    named("cron"),
    stop(1),
    ends,
    verdict="stop_ignored",
    certainty=None,
)
row(
    "java-crash",
    "the JVM crashes as PID 1",
    f"{JAVA} -XX:ErrorFile=/tmp/hs_err.log Java crash",
    ends,
    verdict="aborted",
    certainty=None,
    says=("hs_err",),
    never=("not found",),
    quick=True,
)
row(
    "sigstop-then-stop",
    "redis is stopped by SIGSTOP, then told to end",
    REDIS,
    serves(6379),
    kill("STOP"),
    suspended,
    stop(2),
    ends,
    verdict="stop_suspended",
    certainty=None,
    says=("SIGSTOP",),
    never=("handler",),
)
row(
    "sigstop-alone",
    "redis is stopped by SIGSTOP and forgotten",
    REDIS,
    serves(6379),
    kill("STOP"),
    suspended,
    verdict="suspended",
    certainty=None,
    says=("SIGSTOP",),
    quick=True,
)

row(
    "node-no-handler",
    "node as PID 1 without a handler of SIGTERM",
    NODE,
    serves(8000),
    stop(2),
    ends,
    verdict="stop_ignored",
    certainty=None,
    never=("handler of SIGTERM finish sooner", "or raise term"),
)
row(
    "postgres-backend-exec",
    "a process of PostgreSQL is killed by kubectl exec, and it ends all others",
    POSTGRES,
    serves(5432),
    kill("KILL", "walwriter", "exec"),
    gone,
    logs("all server processes terminated"),
    verdict="child_killed",
    certainty="likely",
    says=("kubectl exec",),
    never=("SIGQUIT from postgres",),
)
row(
    "exec-kill-1",
    "kubectl exec kill 1",
    REDIS,
    serves(6379),
    kill("TERM", who="exec"),
    ends,
    verdict="ended_on_request",
    certainty=None,
    says=("SIGTERM", "kubectl exec"),
    never=("foreground",),
    quick=True,
)

row(
    "nginx-exec-quit",
    "nginx -s quit in the container",
    NGINX,
    serves(8000),
    executed("nginx", "-c", f"{PLACE}/nginx.conf", "-s", "quit"),
    ends,
    verdict="ended_on_request",
    certainty=None,
    says=("SIGQUIT", "nginx"),
    never=("foreground",),
    quick=True,
)

row(
    "postgres-pg-ctl-stop",
    "pg_ctl stop in the container",
    POSTGRES,
    serves(5432),
    executed(
        "sh",
        "-c",
        f"{AS_POSTGRES} /usr/lib/postgresql/15/bin/pg_ctl stop -D /tmp/data -m fast",
    ),
    ends,
    verdict="ended_on_request",
    certainty=None,
    says=("SIGINT", "pg_ctl"),
    never=("foreground",),
)
row(
    "host-term",
    "SIGTERM from the host",
    REDIS,
    serves(6379),
    kill("TERM"),
    ends,
    verdict="ended_on_request",
    certainty=None,
    says=("SIGTERM", "host"),
    never=("foreground",),
    quick=True,
)
row(
    "stray-child",
    "a child returned 1 a second before",
    "sh -c 'sh -c \"exit 1\"; sleep 1; exit 1'",
    ends,
    verdict="exited",
    certainty=None,
    never=("passed that on",),
    quick=True,
)

row(
    "uwsgi-stop",
    "uwsgi as PID 1 takes SIGTERM for a reload",
    UWSGI,
    serves(8000),
    handles("TERM"),
    stop(2),
    ends,
    verdict="stop_unfinished",
    certainty=None,
    says=("die-on-term",),
)
row(
    "crash-function",
    "where a program in C crashes",
    f"{PROGRAM} on-usr1",
    named("ends-waits"),
    kill("USR1"),
    ends,
    verdict="crashed",
    says=(r"parse_header\(\)",),
    live=True,
)
row(
    "gunicorn-timeout",
    "gunicorn kills a worker that takes too long",
    f"{GUNICORN} --timeout 1",
    serves(8000),
    runs("gunicorn"),
    asks(8000, "/slow"),
    gone,
    verdict="child_killed_by_parent",
    certainty=None,
    says=("SIGABRT|SIGKILL", "master|first process|its own", "time"),
)
row(
    "uwsgi-harakiri",
    "uwsgi kills a worker that takes too long",
    f"{UWSGI} --harakiri 1",
    serves(8000),
    runs("uwsgi"),
    asks(8000, "/slow"),
    gone,
    verdict="child_killed_by_parent",
    certainty=None,
    says=("SIGKILL",),
)
row(
    "gunicorn-worker-segv-host",
    "a worker of gunicorn gets SIGSEGV from the host",
    GUNICORN,
    serves(8000),
    kill("SEGV", "gunicorn"),
    gone,
    verdict="child_killed",
    certainty=None,
    says=("SIGSEGV", "host"),
    never=("fault of its own",),
)
row(
    "supervisor-loop",
    "supervisor starts a program again and again that ends",
    SUPERVISOR,
    logs("(?s)(exit status 1.*){5}"),
    verdict="child_loop",
    certainty=None,
    says=("exit",),
)
row(
    "pipe-child-crash",
    "app | tee, and the app crashes",
    f"sh -c '{PROGRAM} segv | tee /dev/null'",
    ends,
    verdict="exited_after_child",
    certainty=None,
    never=("foreground",),
)
row(
    "oom-child-then-kill",
    "a child is killed for memory, and later the container from the host",
    f"sh -c '{PROGRAM} eat; exec sleep 1000'",
    named("sleep"),
    kill("KILL"),
    ends,
    verdict="killed_from_host",
    certainty=None,
    memory=64 * MIB,
    says=("OOMKilled",),
    never=("Kubernetes shows nothing",),
)
row(
    "gunicorn-worker-crash-place",
    "where a worker of gunicorn crashes",
    GUNICORN,
    serves(8000),
    runs("gunicorn"),
    asks(8000, "/crash"),
    gone,
    verdict="child_crashed",
    says=(r"in \S+\.so|in libc|ctypes|function",),
    live=True,
)
row(
    "worker-crash-function",
    "where a worker in C crashes",
    f"sh -c '{PROGRAM} worker on-usr1'",
    kill("USR1", "ends-waits"),
    gone,
    verdict="child_crashed",
    says=(r"parse_header\(\)",),
    live=True,
)

row(
    "go-panic",
    "a panic in Go",
    f"{PLACE}/panics panic",
    ends,
    verdict="exited",
    says=(r"exit\(2\)", "Go", "panic"),
    never=("wrong usage",),
    quick=True,
)
row(
    "npm-start",
    "npm start, whose shell takes SIGTERM",
    f"npm --prefix {PLACE} start",
    serves(8000),
    stop(2),
    ends,
    verdict="stop_not_passed_on",
    certainty=None,
    never=("handler of SIGTERM finish sooner", "or raise term"),
)
row(
    "pdeathsig",
    "a child that ends with its parent (PDEATHSIG)",
    f"{PROGRAM} pdeath",
    runs("ends", 2),
    fewer,
    verdict="child_killed_with_parent",
    certainty=None,
    says=("PDEATHSIG|parent",),
)
row(
    "pool-child-oom",
    "the first process ends as its worker is killed for memory",
    "python3 -c 'import subprocess,sys; p=subprocess.run([\""
    + PROGRAM
    + '","eat"]); sys.exit(1 if p.returncode else 0)\'',
    ends,
    verdict="exited_after_child",
    certainty=None,
    memory=64 * MIB,
    says=("memory",),
    quick=True,
)
row(
    "pipe-child-oom",
    "app | tee, and the app is killed for memory",
    f"sh -c '{PROGRAM} eat | tee /dev/null'",
    ends,
    verdict="exited_after_child",
    certainty=None,
    memory=64 * MIB,
    never=("foreground",),
    quick=True,
)

row(
    "rlimit-cpu",
    "a worker uses more processor time than RLIMIT_CPU allows",
    f"sh -c 'ulimit -St 1; {PROGRAM} spin; exec sleep 1000'",
    named("sleep"),
    verdict="child_crashed",
    says=("RLIMIT_CPU",),
)
row(
    "rlimit-cpu-passed-on",
    "a shell passes on that its child used up RLIMIT_CPU",
    f"sh -c 'ulimit -St 1; {PROGRAM} spin; exit $?'",
    ends,
    verdict="exited_after_child",
    certainty=None,
    says=("RLIMIT_CPU",),
)
row(
    "child-crash-long-before",
    "a child that was killed long before is not the reason",
    f"sh -c '{PROGRAM} segv; sleep 3; exit 1'",
    ends,
    verdict="exited",
    certainty=None,
    also=("child_crashed",),
)
row(
    "tini-child-killed",
    "a child of tini is killed from the host",
    f"tini -- node {PLACE}/server.js",
    serves(8000),
    kill("KILL", "server.js"),
    ends,
    verdict="exited_after_child",
    certainty=None,
    says=("host",),
)
row(
    "postgres-stop",
    "PostgreSQL without clients ends in time",
    POSTGRES,
    serves(5432),
    logs("ready to accept"),
    stop(10),
    ends,
    verdict="stopped_in_time",
    certainty=None,
)
row(
    "gunicorn-stop-busy",
    "gunicorn waits for a request that takes long",
    GUNICORN,
    serves(8000),
    runs("gunicorn"),
    asks(8000, "/slow"),
    reached,
    stop(2),
    ends,
    verdict="stop_unfinished",
    certainty=None,
    says=("graceful-timeout",),
)
row(
    "puma-worker-killed",
    "a worker of puma is killed by kubectl exec",
    PUMA,
    runs("cluster worker"),
    kill("KILL", "cluster worker", "exec"),
    gone,
    verdict="child_killed",
    certainty="likely",
    says=("kubectl exec",),
)
row(
    "nginx-quit-stop",
    "nginx is told to end by its orderly signal",
    NGINX,
    serves(8000),
    kill("QUIT", who="exec"),
    ends,
    verdict="ended_on_request",
    certainty=None,
    says=("SIGQUIT",),
    never=("fast stop",),
    quick=True,
)

row(
    "dumb-init-child-does-not-end",
    "dumb-init passes SIGTERM on, and its child does not end",
    "dumb-init -- sh -c 'trap \"\" TERM; sleep 1000; sleep 1000'",
    runs("^sleep"),
    stop(2),
    ends,
    verdict="stop_unfinished",
    certainty=None,
    says=("dumb-init",),
)
row(
    "supervisor-stop",
    "supervisor ends its programs in time",
    SUPERVISOR,
    handles("TERM"),
    stop(10),
    ends,
    verdict="stopped_in_time",
    certainty=None,
    also=("child_loop",),
)
row(
    "go-usage",
    "a program in Go that is given wrong arguments",
    f"{PLACE}/panics",
    ends,
    verdict="exited",
    says=("wrong arguments",),
    quick=True,
)

row(
    "rlimit-cpu-first",
    "the first process uses more processor time than RLIMIT_CPU allows",
    f"sh -c 'ulimit -St 1; ulimit -Ht 2; exec {PROGRAM} spin'",
    ends,
    verdict="killed_by_kernel",
    certainty="likely",
    says=("RLIMIT_CPU",),
)
row(
    "postgres-smart",
    "PostgreSQL waits for a client that stays",
    POSTGRES,
    serves(5432),
    connects(5432),
    stop(2),
    ends,
    verdict="stop_unfinished",
    certainty=None,
    says=("SIGINT", "clients"),
)
row(
    "celery-stop-busy",
    "celery waits for a task that runs",
    CELERY,
    logs("received"),
    stop(2),
    ends,
    verdict="stop_unfinished",
    certainty=None,
    says=("warm",),
    env={"TASK": "sleep"},
)
row(
    "redis-closed-port",
    "23 clients ask at a port on which redis does not listen",
    REDIS,
    serves(6379),
    refused(6380, 23),
    verdict="closed_port",
    says=("port 6380: 23 attempts",),
    quick=True,
)
row(
    "redis-checked",
    "23 health checks connect to redis and reset",
    REDIS,
    serves(6379),
    checks(6379, 23),
    verdict=None,
    certainty=None,
    quick=True,
)
row(
    "redis-protected",
    "redis, which serves nobody from elsewhere without a password, hangs up on a client",
    REDIS,
    serves(6379),
    hangs_up(6379, "PING\r\n"),
    verdict="reset_unread",
    says=("redis-server", "unread"),
)
row(
    "redis-client-resets",
    "a client of redis resets in the middle of a conversation",
    f"{REDIS} --protected-mode no",
    serves(6379),
    resets(6379, "PING\r\n"),
    verdict="reset_by_peer",
    certainty="likely",
    says=("1 connection reset by",),
)
row(
    "redis-client-leaves",
    "a client of redis leaves in the middle of a large answer",
    f"{REDIS} --protected-mode no",
    serves(6379),
    leaves(6379, "SETRANGE key 67108864 x\r\nGET key\r\n", 1 << 16),
    verdict=None,
    certainty=None,
)
row(
    "gunicorn-keep-alive",
    "a client of gunicorn asks once more on a connection that was closed as idle",
    f"{GUNICORN} --worker-class gthread --threads 2 --keep-alive 1",
    serves(8000),
    comes_back(8000),
    verdict="closed_before_use",
    says=("had closed 1 connection", "keep-alive"),
    never=("unread",),
    quick=True,
)

# What people report publicly, and what looks like it

row(
    "celery-time-limit",
    "celery ends a task's process after its time limit",
    f"{CELERY} --time-limit 1",
    logs("TimeLimitExceeded"),
    verdict="child_killed_by_parent",
    certainty="likely",
    says=("SIGTERM", "not out of memory", "time_limit"),
    env={"TASK": "sleep"},
)
row(
    "gunicorn-scale-down",
    "gunicorn ends a worker that it needs no more",
    f"{GUNICORN} --workers 2",
    serves(8000),
    runs("gunicorn", 2),
    kill("TTOU"),
    fewer,
    verdict=None,
)
row(
    "gunicorn-max-requests",
    "gunicorn replaces a worker that has served enough requests",
    f"{GUNICORN} --max-requests 1",
    serves(8000),
    runs("gunicorn"),
    fetches(8000),
    gone,
    verdict=None,
)
row(
    "gunicorn-worker-term",
    "a worker of gunicorn is asked to end from the host, and notices late",
    f"{GUNICORN} --timeout 10",
    serves(8000),
    runs("gunicorn"),
    fetches(8000),
    kill("TERM", "gunicorn"),
    gone,
    verdict="child_killed",
    certainty="likely",
    says=("SIGTERM", "host", "was asked to end"),
)
row(
    "gunicorn-worker-term-exec",
    "a worker of gunicorn is asked to end by kubectl exec",
    f"{GUNICORN} --timeout 10",
    serves(8000),
    runs("gunicorn"),
    fetches(8000),
    kill("TERM", "gunicorn", "exec"),
    gone,
    verdict="child_killed",
    certainty="likely",
    says=("SIGTERM", "kubectl exec"),
)
row(
    "go-sigquit",
    "a program in Go gets SIGQUIT from the host",
    f"{PLACE}/panics sleep",
    handles("QUIT"),
    kill("QUIT"),
    ends,
    verdict="ended_on_request",
    certainty="likely",
    says=("SIGQUIT", "host"),
)
row(
    "nginx-reload",
    "nginx is told to reload",
    NGINX,
    runs("worker process", 2),
    kill("HUP"),
    fewer,
    verdict=None,
    quick=True,
)
row(
    "java-stop",
    "a JVM is stopped, and returns 143",
    f"{JAVA} Java wait",
    named("java"),
    handles("TERM"),
    stop(20),
    ends,
    verdict="stopped_in_time",
    certainty="likely",
    says=("143 is what a JVM returns",),
    never=("terminationGracePeriodSeconds",),
)
row(
    "java-crash-on-oom",
    "a JVM whose heap is full is told to crash",
    f"{JAVA} -Xmx16m -XX:+CrashOnOutOfMemoryError Java heap",
    ends,
    verdict="aborted",
    certainty="likely",
    says=("CrashOnOutOfMemoryError", "limit was not reached"),
    never=("library that is missing",),
)
row(
    "java-leaves-137",
    "a program in Java that chose 137 itself",
    f"{JAVA} Java leave 137",
    ends,
    verdict="exited",
    says=("no signal ended it",),
    never=("out of memory",),
)
row(
    "timeout-kill",
    "timeout(1) has to kill, and a shell passes 137 on",
    "sh -c 'timeout -s KILL 1 sleep 1000; exit $?'",
    ends,
    verdict="exited_after_child",
    certainty="likely",
    says=("sent to itself", "not out of memory", "give timeout"),
    quick=True,
)
row(
    "alarm-below-tini",
    "a program below tini ends by its own alarm(2)",
    "tini -- python3 -c 'import signal, time; signal.alarm(1); time.sleep(1000)'",
    ends,
    verdict="exited_after_child",
    certainty="likely",
    says=("SIGALRM, a timer ran out",),
    never=("processor refused",),
    quick=True,
)
row(
    "file-size-limit",
    "a program writes more than RLIMIT_FSIZE allows",
    "sh -c 'ulimit -f 8; dd if=/dev/zero of=/tmp/file bs=64k count=1; exit $?'",
    ends,
    verdict="exited_after_child",
    certainty="likely",
    says=("SIGXFSZ, it wrote a file larger", "ulimit -f"),
    quick=True,
)
row(
    "tini-hands-usr1-on",
    "tini hands SIGUSR1 from the host on, and its child ends by it",
    "tini sleep 1000",
    runs("^sleep"),
    kill("USR1"),
    ends,
    verdict="exited_after_child",
    certainty="likely",
    says=("SIGUSR1", "had got it from .* on the host", "look at who sent that"),
    never=("look at the child",),
    quick=True,
)
row(
    "shell-child-sigint",
    "node below a shell gets SIGINT from the host",
    f"sh -c '{NODE}; exit $?'",
    serves(8000),
    kill("INT", "^node"),
    ends,
    verdict="exited_after_child",
    certainty="likely",
    says=("SIGINT", "on the host", "look at who sent that"),
)
row(
    "haproxy-worker-killed",
    "haproxy's worker is killed from the host, and its master gives up",
    HAPROXY,
    serves(8000),
    runs("haproxy"),
    kill("KILL", "haproxy"),
    ends,
    verdict="exited_after_child",
    certainty="likely",
    says=("SIGKILL from", "not out of memory", "look at who sent that"),
)
row(
    "files-in-memory",
    "files in /dev/shm use up the container's memory",
    "sh -c 'dd if=/dev/zero of=/dev/shm/file bs=1M count=60; exit 4'",
    ends,
    verdict="exited_after_child",
    certainty="likely",
    memory=24 * MIB,
    says=("out of memory|was used up", "which no kill frees"),
)
row(
    "core-dump-cut-off",
    "a program crashes, and is killed while it writes its core dump",
    "sh -c 'ulimit -c unlimited; cd /tmp; exec python3 -c"
    ' "import ctypes; kept = bytes([1]) * (1 << 31); ctypes.string_at(1)"\'',
    dumps,
    stop(0),
    ends,
    verdict="crashed",
    says=("core dump was still being written", "cut it off"),
    never=("no handler",),
)
row(
    "java-threads-live",
    "the JVM cannot make threads, and somebody watches",
    f"{JAVA} -Xmx64m Java threads",
    ends,
    verdict="no_more_processes",
    certainty="likely",
    says=("pids.max", "it was not memory"),
    pids=60,
    live=True,
)

# What is in the way of a signal or a code, and what a program of the runtime's does in a container

row(
    "exec-probe-ends-its-own",
    "an exec probe with a time limit of its own fails",
    REDIS,
    serves(6379),
    *(4 * (executed("timeout", "1", "sleep", "1000"),)),
    verdict="exec_probe_failing",
    certainty="likely",
    says=("exit code 124", "time was up"),
    never=("the child",),
)
row(
    "exec-probe-pg-isready",
    "an exec probe asks with pg_isready for a server that does not run",
    REDIS,
    serves(6379),
    *(4 * (executed("sh", "-c", "sleep 1; exec pg_isready -h 127.0.0.1"),)),
    verdict="exec_probe_failing",
    certainty="likely",
    says=("exit code 2", "no server answers"),
    never=("wrong usage", "the child"),
)
row(
    "exec-out-of-memory",
    "what kubectl exec starts takes more than there is",
    REDIS,
    serves(6379),
    executed(PROGRAM, "eat"),
    verdict="oom_of_child",
    certainty="likely",
    says=("which the runtime executed",),
    never=("the child",),
    memory=64 * MIB,
    quick=True,
)
row(
    "exec-crash",
    "what kubectl exec starts crashes",
    REDIS,
    serves(6379),
    executed(PROGRAM, "segv"),
    verdict="child_crashed",
    certainty="likely",
    says=("which the runtime executed", "SIGSEGV"),
    never=("the child",),
    quick=True,
)
row(
    "exec-kill-9-1",
    "kubectl exec kill -9 1 and kill -STOP 1, of which PID 1 notices nothing",
    REDIS,
    serves(6379),
    kill("KILL", who="exec"),
    kill("STOP", who="exec"),
    stop(10),
    ends,
    verdict="stopped_in_time",
    certainty=None,
    never=("SIGSTOP from", "SIGKILL"),
    quick=True,
)
row(
    "exec-pkill",
    "kubectl exec pkill ends gunicorn and its workers",
    GUNICORN,
    serves(8000),
    runs("gunicorn"),
    executed("pkill", "-f", "gunicorn"),
    ends,
    verdict="ended_on_request",
    certainty="likely",
    says=("SIGTERM", "pkill", "kubectl exec"),
    never=("foreground",),
)
row(
    "exec-kill-all",
    "kubectl exec kill -9 -1 kills all workers of gunicorn",
    f"{GUNICORN} --workers 2",
    serves(8000),
    runs("gunicorn", 2),
    executed("kill", "-KILL", "--", "-1"),
    gone,
    verdict="child_killed",
    certainty="likely",
    says=("SIGKILL", "kubectl exec"),
)
row(
    "gunicorn-no-application",
    "gunicorn cannot import the application",
    GUNICORN.replace("app:application", "nothing:application"),
    ends,
    verdict="exited",
    says=("gunicorn returns 3",),
    never=("shell",),
)
row(
    "gunicorn-crash-reported",
    "a worker of gunicorn crashes, and Python's faulthandler reports that first",
    GUNICORN,
    serves(8000),
    runs("gunicorn"),
    asks(8000, "/crash"),
    gone,
    verdict="child_crashed",
    says=("SIGSEGV", "an address where nothing is"),
    env={"PYTHONFAULTHANDLER": "1"},
    quick=True,
)
row(
    "gunicorn-worker-stopped",
    "a worker of gunicorn is stopped by SIGSTOP, and its master takes it for one that hangs",
    f"{GUNICORN} --timeout 1",
    serves(8000),
    runs("gunicorn"),
    fetches(8000),
    kill("STOP", "gunicorn"),
    gone,
    verdict="suspended",
    certainty="likely",
    says=("SIGSTOP", "its own master", "not out of memory"),
    never=("longer --timeout", "kill -CONT"),
)
row(
    "redis-crash",
    "redis crashes, and reports that first",
    f"{REDIS} --enable-debug-command yes",
    serves(6379),
    executed("redis-cli", "debug", "segfault"),
    ends,
    verdict="crashed",
    says=("SIGSEGV",),
)
row(
    "redis-crash-below-tini",
    "redis below tini crashes, and reports that first",
    f"tini -- {REDIS} --enable-debug-command yes",
    serves(6379),
    executed("redis-cli", "debug", "segfault"),
    ends,
    verdict="exited_after_child",
    certainty="likely",
    says=("SIGSEGV",),
    never=("got it from", "shell"),
)
row(
    "java-thread-dump",
    "a JVM writes the stacks of its threads, and a little later ends by itself",
    f"{JAVA} Java leave-at /tmp/now 1",
    handles("QUIT"),
    kill("QUIT", who="exec"),
    executed("touch", "/tmp/now"),
    ends,
    verdict="exited",
    never=("asked to end", "SIGQUIT"),
)
row(
    "java-on-out-of-memory",
    "a JVM that is to kill itself when its heap is full, which PID 1 cannot",
    f"{JAVA} -Xmx32m -XX:OnOutOfMemoryError='kill -9 %p' Java heap",
    ends,
    verdict="exited",
    says=("OnOutOfMemoryError", "cannot be killed from inside"),
    memory=256 * MIB,
)
row(
    "java-on-out-of-memory-below-tini",
    "a JVM below tini kills itself when its heap is full",
    f"tini -- {JAVA} -Xmx32m -XX:OnOutOfMemoryError='kill -9 %p' Java heap",
    ends,
    verdict="exited_after_child",
    certainty="likely",
    says=("SIGKILL", "OnOutOfMemoryError", "its heap was full"),
    memory=256 * MIB,
)
row(
    "tini-shell-server",
    "tini passes SIGTERM on to a shell, and the server behind that gets none",
    "tini -- sh -c 'redis-server --save \"\" --dir /tmp; echo done'",
    serves(6379),
    stop(10),
    ends,
    verdict="stop_not_passed_on",
    certainty="likely",
    says=("redis-server",),
    never=("or raise term",),
)
row(
    "dumb-init-shell-server",
    "dumb-init passes SIGTERM on to a shell and to the server behind it",
    "dumb-init -- sh -c 'redis-server --save \"\" --dir /tmp; echo done'",
    serves(6379),
    stop(10),
    ends,
    verdict="stopped_in_time",
    certainty=None,
)
row(
    "pipe-stop",
    "a server that writes into a pipe is stopped",
    "sh -c 'redis-server --save \"\" --dir /tmp | tee /dev/null'",
    serves(6379),
    stop(2),
    ends,
    verdict="stop_ignored",
    certainty=None,
    says=("a pipe keeps its shell",),
    never=("sh -c 'exec server'",),
)
row(
    "python-http-server",
    "Python's own server as PID 1 has no handler of SIGTERM",
    "python3 -m http.server 8000",
    serves(8000),
    stop(2),
    ends,
    verdict="stop_ignored",
    certainty=None,
    says=("handler",),
)
row(
    "ruby-raises",
    "an exception in Ruby that nobody rescues",
    "ruby -e 'raise \"nobody rescues this\"'",
    ends,
    verdict="exited",
    says=("Ruby returns 1",),
    quick=True,
)
row(
    "ruby-crash",
    "Ruby crashes as PID 1",
    "ruby -rfiddle -e 'Fiddle::Pointer.new(8)[0]'",
    ends,
    verdict="aborted",
    certainty=None,
    says=(r"\[BUG\]",),
    quick=True,
)
row(
    "ruby-stop",
    "Ruby, which answers SIGTERM with an exception, is stopped",
    "ruby -e 'warn \"ready\"; sleep'",
    logs("ready"),
    stop(10),
    ends,
    verdict="stopped_in_time",
    certainty=None,
)
row(
    "php-memory-limit",
    "PHP's own memory limit",
    "php8.2 -d memory_limit=16M -r '$a = []; while (true) $a[] = str_repeat(\"x\", 1 << 20);'",
    ends,
    verdict="exited",
    says=("PHP returns 255", "memory_limit"),
    quick=True,
)
row(
    "perl-dies",
    "Perl dies of a file that is not there",
    'perl -e \'open(my $file, "<", "/none") or die "/none: $!"\'',
    ends,
    verdict="exited",
    says=("errno",),
    never=("written in Go",),
    quick=True,
)
row(
    "psql-no-server",
    "psql finds no server",
    "/usr/lib/postgresql/15/bin/psql -h 127.0.0.1 -U postgres -c 'select 1'",
    ends,
    verdict="exited",
    says=("no connection to the server",),
    never=("written in Go",),
    quick=True,
)
row(
    "dumb-init-not-found",
    "dumb-init does not find its child's program",
    "dumb-init no-such-server",
    ends,
    verdict="exited_after_child",
    certainty="likely",
    says=("dumb-init returns 2", "not there"),
    never=("written in Go", "shell"),
    quick=True,
)
row(
    "tini-not-found",
    "tini does not find its child's program",
    "tini no-such-server",
    ends,
    verdict="exited_after_child",
    certainty="likely",
    says=("not there",),
    never=("shell in between",),
    quick=True,
)
row(
    "uwsgi-no-application",
    "uwsgi cannot load the application",
    UWSGI.replace("app.py", "nothing.py"),
    ends,
    verdict="exited",
    says=("uwsgi with --need-app returns 22",),
)
row(
    "celery-worker-oom",
    "a task of celery takes more than there is",
    CELERY,
    logs("WorkerLostError"),
    verdict="oom_of_child",
    certainty=None,
    says=("WorkerLostError", "worker_max_memory_per_child"),
    memory=192 * MIB,
    env={"TASK": "eat"},
)
row(
    "redis-daemonizes",
    "redis goes into the background, and takes the container with it",
    f"{REDIS} --daemonize yes",
    ends,
    verdict="exited",
    says=("foreground",),
    quick=True,
)
row(
    "python-pool-ends",
    "a pool of Python has done its work, and ends its workers",
    "python3 -c 'import multiprocessing, time\n"
    "with multiprocessing.Pool(2) as pool:\n"
    "    pool.map(abs, [1, 2])\n"
    'print("over", flush=True)\n'
    "time.sleep(1000)'",
    logs("over"),
    verdict=None,
)
row(
    "python-pool-broken",
    "a worker of a pool of Python is killed for memory, and the program gives up",
    "python3 -c 'import concurrent.futures, operator\n"
    "with concurrent.futures.ProcessPoolExecutor(1) as pool:\n"
    '    pool.submit(operator.mul, b"x", 1 << 30).result()\'',
    ends,
    verdict="exited_after_child",
    certainty="likely",
    says=("memory", "used up"),
    memory=64 * MIB,
)
row(
    "timeout-kill-first",
    "timeout(1) as PID 1 has to kill a program that ignores SIGTERM",
    "timeout -k 1 1 sh -c 'trap \"\" TERM; sleep 1000; sleep 1000'",
    ends,
    verdict="exited_after_child",
    certainty="likely",
    says=("SIGKILL", "not out of memory", "give timeout"),
    never=("shell in between",),
)
row(
    "node-kills-what-it-started",
    "node kills a command that takes longer than it has given it",
    'node -e \'require("child_process").exec("sleep 1000", {timeout: 100, killSignal: "SIGKILL"},'
    ' () => console.log("over")); setInterval(() => {}, 1000)\'',
    logs("over"),
    verdict=None,
)
row(
    "pipe-that-is-read-no-more",
    "yes | head, of which the first ends by SIGPIPE",
    "sh -c 'yes | head -n 1; exec sleep 1000'",
    named("sleep"),
    verdict=None,
    quick=True,
)
row(
    "pipe-without-reader",
    "a program below tini writes into a pipe that nobody reads from",
    "tini -- perl -e 'pipe(my $from, my $to); close $from; syswrite $to, \"x\"'",
    ends,
    verdict="exited_after_child",
    certainty="likely",
    says=("SIGPIPE", "nobody reads"),
    never=("shell in between",),
    quick=True,
)
row(
    "shell-child-killed-says-0",
    "a shell waits for its server, which is killed from the host, and says 0",
    "sh -c 'redis-server --save \"\" --dir /tmp & wait $!; exit 0'",
    runs("redis-server"),
    kill("KILL", "redis-server"),
    ends,
    verdict="exited_after_child",
    certainty="likely",
    says=("redis-server", "SIGKILL", "host", "not out of memory"),
    never=("foreground",),
    quick=True,
)
row(
    "shell-child-aborts-says-0",
    "a program below a shell gives up, and the shell says 0",
    "sh -c 'python3 -c \"import os; os.abort()\"; exit 0'",
    ends,
    verdict="exited_after_child",
    certainty="likely",
    says=("SIGABRT",),
    never=("foreground",),
)
row(
    "entrypoint-hands-on",
    "a shell that passes SIGTERM on by a trap",
    'sh -c \'redis-server --save "" --dir /tmp & child=$!; trap "kill $child" TERM;'
    " echo ready; wait $child; wait $child'",
    runs("redis-server"),
    handles("TERM"),
    stop(10),
    ends,
    verdict="stopped_in_time",
    certainty=None,
)
row(
    "entrypoint-trap-waits",
    "a shell whose trap has to wait for the server in front of it",
    'sh -c \'trap "exit 0" TERM; redis-server --save "" --dir /tmp; echo over\'',
    runs("redis-server"),
    handles("TERM"),
    stop(2),
    ends,
    verdict="stop_unfinished",
    certainty=None,
    says=("shell",),
)
row(
    "dumb-init-node",
    "node without a handler below dumb-init is stopped",
    f"dumb-init {NODE}",
    runs("^node"),
    stop(10),
    ends,
    verdict="stopped_in_time",
    certainty=None,
)
row(
    "tini-group-stop",
    "tini passes SIGTERM on to a shell and, as told, to the server behind it",
    "tini -g -- sh -c 'redis-server --save \"\" --dir /tmp; echo over'",
    runs("redis-server"),
    stop(10),
    ends,
    verdict="stopped_in_time",
    certainty=None,
)
row(
    "python-handler-hangs",
    "a handler of SIGTERM in Python that waits for something else",
    "python3 -c 'import signal, time; signal.signal(15, lambda *_: time.sleep(1000));"
    " time.sleep(1000)'",
    handles("TERM"),
    stop(2),
    ends,
    verdict="stop_unfinished",
    certainty=None,
    never=("no handler",),
)
row(
    "nginx-port-taken",
    "nginx finds its port taken, and gives up",
    f"sh -c 'python3 -m http.server 8000 & until nc=$(python3 -c \"import socket;"
    f' socket.create_connection((\\"127.0.0.1\\", 8000))"); do sleep 0.1; done; exec {NGINX}\'',
    ends,
    verdict="exited",
    never=("memory", "killed by"),
)
row(
    "nginx-bad-config",
    "nginx does not understand its configuration",
    f"nginx -e stderr -c {PLACE}/app.py",
    ends,
    verdict="exited",
    says=("nginx",),
    never=("foreground",),
)
row(
    "gunicorn-worker-paused",
    "a worker of gunicorn is stopped by SIGSTOP for a moment, and goes on",
    GUNICORN,
    serves(8000),
    kill("STOP", "gunicorn"),
    kill("CONT", "gunicorn"),
    fetches(8000),
    verdict=None,
)
row(
    "nginx-reopen",
    "nginx is told to open its logs anew",
    NGINX,
    serves(8000),
    handles("USR1"),
    kill("USR1"),
    fetches(8000),
    verdict=None,
)
row(
    "haproxy-reload",
    "haproxy is told to read its configuration anew",
    HAPROXY,
    serves(8000),
    handles("USR2"),
    runs("haproxy", 1),
    kill("USR2"),
    gone,
    verdict=None,
)
row(
    "postgres-reload",
    "PostgreSQL is told to read its configuration anew",
    POSTGRES,
    serves(5432),
    kill("HUP"),
    logs("received SIGHUP"),
    verdict=None,
)
row(
    "node-cluster-worker-killed",
    "a worker of node's cluster is killed from the host",
    'node -e \'const c = require("cluster"); c.setupPrimary({exec: "'
    f"{PLACE}/server.js\"}}); c.fork(); setInterval(() => {{}}, 1000)'",
    runs("server.js", 1),
    kill("KILL", "server.js"),
    gone,
    verdict="child_killed",
    says=("host",),
)
row(
    "python-too-many-files",
    "a program opens more files than it may",
    "python3 -c 'import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20));"
    ' kept = [open("/etc/passwd") for _ in range(100)]\'',
    ends,
    verdict="exited",
    never=("memory", "killed by"),
)
