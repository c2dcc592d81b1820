"""Writes the filter of a unit's SystemCallFilter and RestrictAddressFamilies as the kernel takes it (for bwrap --seccomp).

filter.py FILE FAMILY… < names of system calls. A call that is not named ends the process.
"""
import socket
import sys

import seccomp

path, *families = sys.argv[1:]
rules = seccomp.SyscallFilter(defaction=seccomp.KILL_PROCESS)
for name in sys.stdin.read().split():
    if seccomp.resolve_syscall(seccomp.Arch(), name) < 0:
        continue  # Of another architecture, or newer than this libseccomp.
    if name != "socket":
        rules.add_rule(seccomp.ALLOW, name)
        continue
    for family in families:
        number = getattr(socket, family)
        rules.add_rule(seccomp.ALLOW, name, seccomp.Arg(0, seccomp.EQ, number))
with open(path, "wb") as file:
    rules.export_bpf(file)
