#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# The first program of a lab guest: loads the modules, in their order, and goes over to the disk.

/bin/busybox mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do
	/bin/busybox insmod "$module" || echo "lab: cannot load $module"
done
# the disk appears a moment after its driver; a guest without one is lost, and its console says why
tries=0
until /bin/busybox mount -t ext4 /dev/vda /root; do
	tries=$((tries + 1))
	if [ $tries = 50 ]; then
		echo "lab: no disk"
		/bin/busybox poweroff -f
	fi
	/bin/busybox usleep 100000
done
/bin/busybox umount /dev
exec /bin/busybox switch_root /root /lab/init
