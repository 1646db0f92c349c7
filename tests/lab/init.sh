#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A lab guest's PID 1: makes the system as it is on a node, reaps, runs the tests, switches off.

export KTRACE_GUEST=1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p /dev/pts /dev/shm
ln -s /proc/self/fd /dev/fd # by which the kernel names a program that runc executes by its descriptor
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
echo lab > /proc/sys/kernel/hostname
ip link set lo up
for port in /sys/class/virtio-ports/*; do
	read -r name < "$port/name"
	[ "$name" = ktrace.lab ] && results=/dev/${port##*/}
done
# as on a node, if it is on the disk: then it runs the tests (tests/lab/systemd.py)
if [ -x /lib/systemd/systemd ]; then
	export results
	exec /lib/systemd/systemd
fi
. /lab/tests
busybox poweroff -f
