# SPDX-License-Identifier: Apache-2.0
"""systemd as a guest's PID 1, with a bus and no units but those that run the tests.

tests/lab/init.sh starts systemd if the disk has it. It gets only the requests of the systemd driver
of a kubelet and of runc: slices and scopes.
"""

from __future__ import annotations

from pathlib import Path

from tests.lab.image import Additions

PROGRAMS = ("/lib/systemd/systemd", "/usr/bin/dbus-daemon", "/usr/bin/systemctl")
# All processes in the guest are root.
BUS = b"""<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"""
UNITS = {
    "default.target": """[Unit]
DefaultDependencies=no
Requires=lab.service
""",
    "dbus.socket": """[Unit]
DefaultDependencies=no
[Socket]
ListenStream=/run/dbus/system_bus_socket
""",
    "dbus.service": """[Unit]
DefaultDependencies=no
Requires=dbus.socket
[Service]
ExecStart=/usr/bin/dbus-daemon --config-file=/lab/bus --address=systemd: --nofork --nopidfile
StandardOutput=append:/dev/console
StandardError=inherit
""",
    "lab.service": """[Unit]
DefaultDependencies=no
Requires=dbus.socket
After=dbus.socket
[Service]
PassEnvironment=PATH HOME LANG PYTHONDONTWRITEBYTECODE KTRACE_GUEST results
ExecStart=/bin/sh /lab/tests
ExecStopPost=/bin/busybox poweroff -f
StandardOutput=append:/dev/console
StandardError=inherit
OOMPolicy=continue
""",
}
SYSTEMD = Additions(
    files=tuple(map(Path, PROGRAMS)),
    contents=(
        ("/etc/machine-id", b"6b74726163656c616267756573740000\n"),
        ("/etc/os-release", b"ID=lab\n"),
        ("/lab/bus", BUS),
        *((f"/etc/systemd/system/{name}", unit.encode()) for name, unit in UNITS.items()),
    ),
)
