#!/usr/bin/env python3
"""Executes a program under the system call filter that a container runtime or systemd would give it.

    deploy_filter.py docker PROFILE.json [--without NAME]... -- PROGRAM [ARGUMENT]...
    deploy_filter.py systemd SERVICE [--without NAME]... -- PROGRAM [ARGUMENT]...
    deploy_filter.py count docker|systemd FILE

Needs Debian's python3-seccomp. The profile is read as Docker reads it (names, arguments, errno), the service by its
SystemCallFilter= lines, with the groups as `systemd-analyze syscall-filter` has them. --without denies a call that the
file allows, to show that the filter is in force. Capabilities are dropped and no_new_privs is set, as both would.
"""

import ctypes
import json
import os
import subprocess
import sys

import seccomp

OPERATORS = {"SCMP_CMP_EQ": seccomp.EQ, "SCMP_CMP_NE": seccomp.NE, "SCMP_CMP_MASKED_EQ": seccomp.MASKED_EQ}
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP, CAPABILITIES = 38, 24, 41
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1


def action(name, errno):
    return {"SCMP_ACT_ALLOW": seccomp.ALLOW, "SCMP_ACT_ERRNO": seccomp.ERRNO(errno)}[name]


def docker_rules(path):
    """The default action, and (action, name, arguments) for each rule."""
    with open(path, encoding="utf-8") as file:
        profile = json.load(file)
    default = profile.get("defaultErrnoRet", 1)
    rules = []
    for group in profile["syscalls"]:
        done = action(group["action"], group.get("errnoRet", default))
        arguments = []
        for arg in group.get("args", []):
            operator = OPERATORS[arg["op"]]
            values = [arg["value"]] + ([arg["valueTwo"]] if operator == seccomp.MASKED_EQ else [])
            arguments.append(seccomp.Arg(arg["index"], operator, *values))
        rules += [(done, name, arguments) for name in group["names"]]
    return action(profile["defaultAction"], default), rules


def systemd_names(service):
    """The calls that a service's SystemCallFilter= lines leave."""
    listed = subprocess.run(["systemd-analyze", "syscall-filter"], capture_output=True, text=True, check=True).stdout
    groups, group = {}, None
    for line in listed.splitlines():
        if line.startswith("@"):
            group = groups.setdefault(line.strip(), [])
        elif group is not None and line.strip() and not line.strip().startswith("#") and line.startswith(" "):
            group.append(line.strip())
        else:
            group = group if line.startswith(" ") else None

    def expand(name):
        return {call for part in groups[name] for call in expand(part)} if name.startswith("@") else {name}

    allowed = set()
    with open(service, encoding="utf-8") as file:
        for line in file:
            key, _, value = line.strip().partition("=")
            if key != "SystemCallFilter":
                continue
            names = {call for name in value.lstrip("~").split() for call in expand(name)}
            allowed = allowed - names if value.startswith("~") else allowed | names
    # systemd adds what executing the program takes.
    return allowed | expand("@default") | {"execve"}


def rules_of(kind, path):
    if kind == "docker":
        return docker_rules(path)
    return seccomp.ERRNO(1), [(seccomp.ALLOW, name, []) for name in sorted(systemd_names(path))]


def known(name):
    """Whether the call exists on this machine's processor, as far as libseccomp knows."""
    return seccomp.resolve_syscall(seccomp.Arch(), name) >= 0


def main():
    if sys.argv[1] == "count":
        _, rules = rules_of(sys.argv[2], sys.argv[3])
        print(len({name for done, name, _ in rules if done == seccomp.ALLOW and known(name)}))
        return
    kind, path, *rest = sys.argv[1:]
    split = rest.index("--")
    without, command = set(rest[:split]) - {"--without"}, rest[split + 1 :]
    default, rules = rules_of(kind, path)
    program = seccomp.SyscallFilter(default)
    for done, name, arguments in rules:
        # systemd's groups name calls of every processor, and of newer kernels than libseccomp knows.
        if name not in without and (kind == "docker" or known(name)):
            program.add_rule(done, name, *arguments)
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(CAPABILITIES):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    if kind == "systemd":
        # MemoryDenyWriteExecute=yes, where the kernel has it.
        libc.prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65532)
        os.setuid(65532)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    program.load()
    os.execv(command[0], command)


main()
