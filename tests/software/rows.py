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
from tests.software.scene import (
    Step,
    asks,
    ends,
    gone,
    handles,
    kill,
    logs,
    runs,
    serves,
    stop,
)

MIB = 1 << 20
PROGRAM = f"{PLACE}/ends"


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
CELERY = f"celery --workdir {PLACE} -A tasks worker --concurrency 1 -P prefork"
JAVA = f"java -cp {PLACE} -XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
NODE = f"node {PLACE}/server.js"
POSTGRES = (
    "sh -c 'cp -r /srv/postgres /tmp/data && chown -R postgres /tmp/data && chmod 700 /tmp/data"
    f" && exec setpriv --reuid={USERS['postgres']} --clear-groups"
    " postgres -D /tmp/data -c fsync=off -k /tmp'"
)
PHP = f"php-fpm8.2 -F -y {PLACE}/php-fpm.conf"
HAPROXY = f"haproxy -W -f {PLACE}/haproxy.cfg"
PUMA = f"puma -C {PLACE}/puma.rb"
SUPERVISOR = f"supervisord -c {PLACE}/supervisord.conf"

row(
    "nginx-stop",
    "nginx is stopped as a kubelet does it",
    NGINX,
    serves(8000),
    stop(10),
    ends,
    verdict="stopped_in_time",
    certainty=None,
    quick=True,
)
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
    "php-fpm-stop",
    "php-fpm is stopped",
    PHP,
    serves(9000),
    stop(10),
    ends,
    verdict="stopped_in_time",
    certainty=None,
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
    "java-heap-above-limit",
    "a heap that may become larger than the container",
    f"{JAVA} -Xmx1g Java heap",
    ends,
    verdict="oom_container_limit",
    memory=128 * MIB,
    quick=True,
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
    "go-panic",
    "a panic in Go",
    f"{PLACE}/panics panic",
    ends,
    verdict="exited",
    says=(r"exit\(2\)",),
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
    runs("sleep"),
    stop(10),
    ends,
    verdict="stopped_in_time",
    certainty=None,
)
row(
    "dumb-init-stop",
    "dumb-init passes SIGTERM on",
    "dumb-init sleep 1000",
    runs("sleep"),
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
