"""The lab's `pct`, `pvesh` and `pvesm` against the real ones: a recording, and the rules read in their sources.

A lab that is kinder than a Proxmox VE node would let a build pass that fails on the real one. So the
commands of a recording are given again and must be answered in the same words; and what the
real commands refuse must be refused here, with a status other than 0, words on standard error, and
nothing changed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from lab import rootfs
from lab.machine import Machine
from lab.pve import options, schema, words
from lab.pve.errors import ParameterError
from tests.lab.transcript import Entry, Printed, Transcript, normal

pytestmark = pytest.mark.lab

TRANSCRIPT = Transcript()
FAULTS = "/etc/pve/lab-faults"
CONF = "/etc/pve/lxc"
BASE, STILL, CT, COPY = "930", "931", "932", "933"
DESCRIBE = f"pvesh set /nodes/pve/lxc/{CT}/snapshot/first/config"
# The recorded container did not start Docker by itself, had no `docker` command then, and was booting
# when it was first asked; a unit holds the boot until /run/go is there.
AS_RECORDED = """cd /lxc-disks/subvol-903-disk-0
rm etc/systemd/system/multi-user.target.wants/docker.service etc/systemd/system/sockets.target.wants/docker.socket
mv usr/bin/docker usr/bin/docker.away
printf '[Service]\\nType=oneshot\\nExecStart=sh -c "until [ -e /run/go ]; do sleep 0.1; done"\\n' \
> etc/systemd/system/hold.service
ln -s ../hold.service etc/systemd/system/multi-user.target.wants/"""


@dataclass(frozen=True)
class Answer:
    """How a command ended and what it said."""

    status: int
    out: str
    err: str

    @property
    def refused(self) -> bool:
        """Whether it failed and said why where it is looked for."""
        return self.status != 0 and bool(self.err.strip()) and "Traceback" not in self.err


class Node:
    """The lab node of these tests."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def run(self, *argv: str, stdin: str = "", together: bool = False) -> Answer:
        """Run a command on the node, in root's home as a login does; `together`: both outputs as one."""
        done = subprocess.run(
            [str(self.machine.shim), "env", "-C", "/root", *argv],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if together else subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr or "")

    def pct(self, line: str) -> Answer:
        """Give `pct` the words of a line."""
        return self.run("pct", *line.split())

    def must(self, *argv: str) -> str:
        """Run a command that has to succeed."""
        answer = self.run(*argv)
        assert answer.status == 0, f"{argv} ended with {answer}"
        return answer.out

    def taken(self, lines: list[str]) -> list[str]:
        """Which of some commands are not refused; they are given all at once, as they should do nothing."""
        with ThreadPoolExecutor(4) as pool:
            answers = pool.map(lambda line: self.run(*line.split()), lines)
        return [line for line, answer in zip(lines, answers, strict=True) if not answer.refused]

    def shell(self, script: str) -> str:
        """Run a shell script that has to succeed."""
        return self.must("sh", "-ec", script)

    def conf(self, vmid: str) -> str:
        """The text of a container's configuration."""
        return self.must("cat", f"{CONF}/{vmid}.conf")

    def confs(self) -> str:
        """All configurations, and which volumes there are."""
        return self.shell(f"cd {CONF}; tail -v -n +1 *; ls /lxc-disks /lxc-disks/.snapshots")


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A lab node named as the recorded one, with container 903 and a copy of it, both stopped; erased at the end."""
    if os.geteuid() != 0:
        pytest.fail("the lab needs root; without it: make test-fast")
    machine = Machine("pve")
    archive = rootfs.parent()
    machine.erase()
    try:
        machine.power_on()
        made = Node(machine)
        net = "name=eth0,bridge=vmbr0,gw=10.77.0.1,hwaddr=BC:24:11:00:09:03,ip=10.77.0.93/24"
        made.must(
            *f"pct create 903 {archive} --hostname vllm-src --cores 2 --memory 2048 --features nesting=1".split(),
            *f"--unprivileged 0 --rootfs lxc-disks:8 --net0 {net}".split(),
        )
        made.must(*f"pct clone 903 {BASE} --hostname base".split())
        yield made
    finally:
        machine.erase()


def _make(node: Node, vmid: str) -> None:
    """Make a container with one core, 256 MB and the snapshot "first"."""
    node.must(*f"pct clone {BASE} {vmid} --hostname test".split())
    node.must(*f"pct set {vmid} --cores 1 --memory 256".split())
    node.must("pct", "snapshot", vmid, "first", "--description", "the first\nof all")


@pytest.fixture(scope="module")
def still(node: Node) -> str:
    """A stopped container that no test changes."""
    _make(node, STILL)
    return STILL


@pytest.fixture
def ct(node: Node) -> Iterator[str]:
    """A stopped container of the test's own."""
    _make(node, CT)
    yield CT
    node.shell(
        f"rm -f {FAULTS}; for id in {CT} {COPY}; do [ ! -e {CONF}/$id.conf ] || "
        f"{{ sed -i '/^lock: /d; /^protection: /d' {CONF}/$id.conf; pct destroy $id --force; }}; done"
    )


# ---- the recording ----


@dataclass(frozen=True)
class Replay:
    """The recorded commands, given again.

    Attributes:
        answers: By line of the transcript.
        files: The files as they were after the command of a line, by line and name.
    """

    answers: dict[int, Answer]
    files: dict[tuple[int, str], str]


@pytest.fixture(scope="module")
def replay(node: Node) -> Replay:
    """All commands of the recording, with what was done by hand between them."""
    node.shell(AS_RECORDED)
    node.must("pct", "start", "903")
    found = Replay({}, {})
    for entry in TRANSCRIPT.to_replay():
        if script := TRANSCRIPT.by_hand.get(entry.line):
            node.shell(script)
        found.answers[entry.line] = node.run(*entry.argv(), stdin=entry.stdin, together=True)
        for printed in TRANSCRIPT.files():
            if printed.after == entry.line:
                found.files[entry.line, printed.name] = node.must("cat", f"{CONF}/{printed.name}")
    return found


@pytest.mark.parametrize("entry", TRANSCRIPT.to_replay(), ids=str)
def test_a_recorded_command_is_answered_as_the_real_one_did(replay: Replay, entry: Entry) -> None:
    answer = replay.answers[entry.line]
    assert normal(answer.out.splitlines()) == normal(entry.answer)
    if entry.status is not None and " exec " in entry.words:
        assert answer.status == entry.status
    elif entry.status is not None:
        assert bool(answer.status) == bool(entry.status)


@pytest.mark.parametrize("printed", TRANSCRIPT.files(), ids=lambda printed: f"{printed.name} after {printed.after}")
def test_a_configuration_is_written_as_the_real_one_is(replay: Replay, printed: Printed) -> None:
    written = replay.files[printed.after, printed.name]
    assert normal(written.splitlines()) == normal(list(printed.text))


def test_every_line_of_the_transcript_is_replayed_or_compared_or_left_out_with_a_reason() -> None:
    assert TRANSCRIPT.unaccounted() == []
    assert all(note["why"] for name in ("left_out", "altered", "by_hand") for note in TRANSCRIPT.notes[name])
    lines = {entry.line for entry in TRANSCRIPT.entries}
    assert set(TRANSCRIPT.by_hand) <= lines - TRANSCRIPT.left_out, (
        "a step by hand stands before a command that is given"
    )


# ---- the command line ----

# By verb: words that it does not take, between bars; with nothing between two bars, no words at all.
REFUSED = {
    "": "",
    "frobnicate": "",
    "sta": "931",
    "migrate": "931 elsewhere",
    "clone": (
        "| 931 | 931 932 933 | 931 932 --linked | 931 932 --snapname first --linked | 931 932 --full maybe"
        "| 931 932 --full 0 | 931 932 --snapname first --full 0 | 931 932 --snapname 9bad | 931 932 --snapname nosuch"
        "| 931 99 | 931 930 | 931 931 | 999 932 | 931 932 --storage elsewhere | 931 932 --pool p"
        "| 931 932 --target elsewhere | 931 932 --full 0 --storage lxc-disks | 931 932 --hostname under_score"
    ),
    "config": (
        "| 931 932 | 931 --frob | 931 --snapshot nosuch | 931 --current x | 931 --current --snapshot first | 931x | 99"
    ),
    "create": (
        "| 940 | 940 /nowhere.tar | 940 /etc/hosts --frob 1 | 940 /etc/hosts --unprivileged 0"
        "| 940 /etc/hosts --rootfs lxc-disks:8 | 940 /etc/hosts --unprivileged 0 --rootfs 8"
        "| 940 /etc/hosts --unprivileged 0 --rootfs lxc-disks:8"
        "| 940 /nowhere.tar --unprivileged 0 --rootfs lxc-disks:8"
        "| 931 /etc/hosts --unprivileged 0 --rootfs lxc-disks:8 | 940 /etc/hosts --password secret"
    ),
    "delsnapshot": (
        "| 931 | 931 first again | 931 first --frob | 931 nosuch | 931 nosuch --force | 931 first --force=maybe"
    ),
    "destroy": "| 931 932 | 931 --frob | 999",
    "exec": "| 931 | 931 -- true | 931 ls -l | 931 --frob -- true | nosuch -- true | 99 -- true | 999 -- true",
    "fsck": "| 931 932 | 931 --frob | 931 --device disk0 | 931 --device mp0 | 931 | 999",
    "list": "931 | --frob",
    "listsnapshot": "| 931 first | 931 --frob | 999",
    "pending": "| 931 932 | 931 --frob | 999",
    "reboot": "| 931 | 931 now | 931 --frob | 931 --timeout -1 | 999",
    "rescan": "931 | --frob | --vmid 999 | --dryrun maybe",
    "resume": "| 931 | 931 932 | 931 --frob | 999",
    "suspend": "| 931 | 931 932 | 931 --frob | 999",
    "template": "| 931 | 931 932 | 931 --frob | 999",
    "resize": (
        "| 931 rootfs | 931 rootfs 9G now | 931 rootfs 9G --frob | 931 disk0 9G | 931 mp0 9G | 931 rootfs 9GB"
        "| 931 rootfs -1G | 931 rootfs nine | 931 rootfs 7G | 931 rootfs 8G | 931 rootfs +0 | 931 rootfs 9G --digest 00"
    ),
    "rollback": "| 931 | 931 first now | 931 first --frob | 931 nosuch | --start 931 first | 999 first",
    "set": (
        "| 931 | 931 932 --cores 1 | 931 --frob 1 | 931 --cores | 999 --cores 1 | 931 --cores 0 | 931 --cores two"
        "| 931 --memory 8 | 931 --memory 1G | 931 --hostname a_b | 931 --onboot maybe | 931 --arch vax | 931 --net 1"
        "| 931 --unprivileged 1 | 931 --rootfs lxc-disks:9 | 931 --delete memory | 931 --delete nosuch"
        "| 931 --delete cores --cores 1 | 931 --digest 00 --cores 2 | 931 --cpulimit 1 | 931 --cores=2 -5"
        "| 931 --net0 name=eth0,frob=1 | 931 --net0 name=eth0,tag=5 | 931 --features nest=1 | 931 --dev0 /etc/passwd"
        "| 931 --dev0 /dev/shm | 931 --mp0 lxc-disks:vm-1-disk-1,mp=/x | 931 --net0 name=eth0,ip=dhcp"
    ),
    "shutdown": "| 931 | 931 now | 931 --frob | 931 --timeout -1 | 999",
    "snapshot": (
        "| 931 | 931 x | 931 second now | 931 second --frob | 931 first | 931 current | 931 vzdump | 931 a.b | 931 9bad"
        "| 931 second --description | 999 second | 931 aaaaaaaaaabbbbbbbbbbccccccccccddddddddddX"
    ),
    "start": "| 931 932 | 931 --frob | 999",
    "status": "| 931 932 | 931 --frob | 999",
    "stop": "| 931 | 931 now | 931 --frob | 999",
    "unlock": "| 931 | 931 now | 931 --frob | 999",
}


@pytest.mark.parametrize("verb", REFUSED)
def test_what_pct_does_not_take_is_refused_and_changes_nothing(node: Node, still: str, verb: str) -> None:
    assert still == "931"
    before = node.confs()
    lines = [f"pct {verb} {rest}" for rest in REFUSED[verb].split("|")]
    assert node.taken(lines) == []
    assert node.confs() == before


def test_every_verb_of_pct_is_tried_with_words_that_it_does_not_take() -> None:
    assert set(words.VERBS) <= set(REFUSED)


# By setting: values that the real one takes, and values that it refuses.
VALUES = {
    "net0": (
        "name=eth0 | name=eth0,bridge=vmbr0,ip=10.0.0.5/24,gw=10.0.0.1,mtu=1400,link_down=yes,type=veth"
        "| name=eth0,ip=dhcp",
        "| bridge=vmbr0 | eth0 | name=eth0,frob=1 | name=eth0,name=eth1 | name=eth0,ip=10.0.0.5 | name=eth0,type=vlan"
        "| name=eth0,ip=10.0.0.555/24 | name=eth0,gw=10.0.0.1/24 | name=eth0,hwaddr=01:00:00:00:00:00 | name=eth0,=x"
        "| name=eth0,bridge= | name=eth0,mtu=9 | name=eth0,firewall=maybe | name=eth0,ip6=10.0.0.5/24 | name=eth 0",
    ),
    "features": (
        "nesting=1 | nesting=yes,keyctl=0,mount=nfs;cifs,fuse=1",
        "nesting | nesting=2 | nest=1 | nesting=1,nesting=1 | nesting=1;keyctl=1 | mount=a/b",
    ),
    "dev0": (
        "/dev/fuse | path=/dev/fuse,mode=0666,uid=0,gid=44,deny-write=1",
        "fuse | /etc/passwd | /dev/../etc/passwd | /dev/fuse,mode=666 | /dev/fuse,/dev/null | /dev/fuse,frob=1",
    ),
    "mp0": (
        "/models,mp=/models | volume=/models,mp=/models,ro=1 | lxc-disks:8,mp=/x",
        "/models | mp=/models | /models,mp=/a/../b | /models,mp=/models,size=big | /models,mp=/models,frob=1",
    ),
    "memory": ("16 | 4096", "15 | -1 | 1.5 | 1G |"),
    "cores": ("1 | 8192", "0 | 8193 | 1.5 | one"),
    "hostname": ("a | a-b.c", "-a | a_b | a..b |"),
    "nameserver": ("10.0.0.1 | 10.0.0.1;10.0.0.2 | fd00::1", "dns | 10.0.0.256"),
    "startup": ("1 | order=1,up=30,down=60", "first | 0 | order=x"),
    "lock": ("backup | snapshot-delete", "mine | Backup"),
    "tags": ("a;b | a,b", "-a | a/b"),
    "onboot": ("0 | 1 | yes | OFF", "2 | maybe"),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_are_taken_and_refused_as_the_schema_says(name: str) -> None:
    good, bad = (split.split("|") for split in VALUES[name])
    assert [value for value in good if _complaint(name, value.strip())] == []
    assert [value for value in bad if not _complaint(name, value.strip())] == []


def _complaint(name: str, value: str) -> str:
    try:
        words.command("set").parse(["931", f"--{name}", value])
    except ParameterError as error:
        return str(error)
    return ""


def test_complaints_are_worded_as_the_real_ones() -> None:
    usage = "pct set <vmid> [OPTIONS]"
    assert _complaint("cores", "two") == (
        f"400 Parameter verification failed.\ncores: type check ('integer') failed - got 'two'\n{usage}"
    )
    assert _complaint("net0", "bridge=vmbr0") == (
        "400 Parameter verification failed.\nnet0: invalid format - format error\n"
        f"net0.name: property is missing and it is not optional\n\n\n{usage}"
    )
    assert _complaint("onboot", "maybe") == f"400 unable to parse boolean option\n{usage}"


# Words as a command line may have them, for options that are strings, booleans and a list.
LINES = (
    "903 920 --full|--full 903 920|903 --desc x|903 --FULL=0|903 -5|903 --|903 -- --full|903 -|903 --description --full"
    "|903 --description=|903 --net x|903 -full|903 -full=1 -|903 ---full|903 --delete a --delete b|903 --description"
    "|903 --full -- 920|903 --forcestop|903 --h x|--= 1|903 --d x|903 --full - x|903 --full=|903 +full|903 --bogus=3"
    "|903 --bogus 3 4|903 --delete=a,b"
)
GETOPT = """use Getopt::Long; Getopt::Long::Configure("prefix_pattern=(--|-)");
my @options = qw(full:s forceStop:s description=s hostname=s delete=s@ net0=s net1=s);
while (<STDIN>) { chomp; my @words = split / /; my $o = {};
  my $ok = Getopt::Long::GetOptionsFromArray(\\@words, $o, @options);
  my @given = map { "$_=" . (ref $o->{$_} ? join(",", @{$o->{$_}}) : $o->{$_}) } sort keys %$o;
  print join("|", $ok ? "ok" : "no", "@words", @given), "\\n" }"""


@pytest.mark.skipif(not shutil.which("perl"), reason="no perl to ask")
def test_words_are_told_apart_as_getopt_long_does_it() -> None:
    lines = LINES.split("|")
    text = "".join(f"{line}\n" for line in lines)
    asked = subprocess.run(["perl", "-e", GETOPT], input=text, capture_output=True, text=True, timeout=30, check=True)
    rules = {
        **words.SETTINGS,
        "forceStop": schema.BOOL,
        "full": schema.BOOL,
        "delete": schema.ID_LIST,
    }
    rules = {name: rules[name] for name in ("full", "forceStop", "description", "hostname", "delete", "net0", "net1")}
    for line, expected in zip(lines, asked.stdout.splitlines(), strict=True):
        plain, given, problems = options.split(line.split(" "), rules)
        known = sorted(f"{name}={value}" for name, value in given.items())
        assert "|".join(["no" if problems else "ok", " ".join(plain), *known]) == expected, line


def test_verbs_and_options_may_be_shortened_as_long_as_that_is_clear(node: Node, still: str) -> None:
    assert node.must(*f"pct conf {still} --snap first".split()) == node.must(
        *f"pct config {still} --snapshot first".split()
    )


def test_a_command_in_a_container_keeps_its_own_options_behind_two_hyphens(node: Node, ct: str) -> None:
    node.must("pct", "start", ct)
    assert node.pct(f"exec {ct} echo -n hello").refused
    assert node.must("pct", "exec", ct, "--", "echo", "-n", "--keep-env", "x") == "--keep-env x"
    assert node.must("pct", "exec", ct, "echo", "--", "-n", "x") == "x"
    assert node.run("env", "WORD=kept", "pct", "exec", ct, "--", "printenv", "WORD").out == "kept\n"
    assert node.run("env", "WORD=x", "pct", "exec", "--keep-env", "0", ct, "--", "printenv", "WORD").status == 1
    answer = node.pct(f"exec {ct}")
    assert answer.refused
    assert "missing command" in answer.err
    answer = node.run("pct", "exec", ct, "--", "sh", "-c", "yes | head -n 1")
    assert (answer.out, answer.err) == ("y\n", ""), "a command is ended by SIGPIPE, as under the real one"


# ---- clones ----


def test_a_clone_has_a_new_mac_the_same_address_and_no_snapshots(node: Node, ct: str) -> None:
    node.must(*f"pct clone {ct} {COPY} --snapname first --hostname copy".split())
    source, copy = node.conf(ct), node.conf(COPY)
    assert _value(copy, "net0", "hwaddr") != _value(source, "net0", "hwaddr")
    assert _value(copy, "net0", "hwaddr").startswith("BC:24:11:")
    assert _value(copy, "net0", "ip") == _value(source, "net0", "ip") == "10.77.0.93/24"
    assert "hostname: copy\n" in copy
    assert not re.search(r"^(parent|snaptime|lock|\[)", copy, re.MULTILINE)
    assert "parent: first\n" in source
    assert "lock:" not in source


def test_a_clone_inherits_the_description_of_the_snapshot_unless_it_is_given_one(node: Node, ct: str) -> None:
    node.must(*f"pct clone {ct} {COPY} --snapname first".split())
    assert node.conf(COPY).startswith("#the first\n#of all\narch: ")
    node.must("pct", "destroy", COPY)
    node.must("pct", "clone", ct, COPY, "--snapname", "first", "--description", "mine: 100%")
    assert node.conf(COPY).startswith("#mine%3A 100%25\narch: ")


def test_a_clone_has_a_machine_id_of_its_own(node: Node, ct: str) -> None:
    file = f"/lxc-disks/subvol-{CT}-disk-0/etc/machine-id"
    node.shell(f"echo 0123456789abcdef0123456789abcdef > {file}")
    node.must(*f"pct clone {ct} {COPY}".split())
    assert node.must("cat", file.replace(CT, COPY)) == "", "emptied: systemd makes a new one at the next boot"
    assert node.must("cat", file) == "0123456789abcdef0123456789abcdef\n"


def test_a_clone_of_a_snapshot_has_its_settings_and_files_not_the_present_ones(node: Node, ct: str) -> None:
    node.must(*f"pct set {ct} --memory 512".split())
    node.shell(f"echo later > /lxc-disks/subvol-{CT}-disk-0/root/m")
    node.must(*f"pct clone {ct} {COPY} --snapname first".split())
    assert "memory: 256\n" in node.conf(COPY)
    assert node.run("cat", f"/lxc-disks/subvol-{COPY}-disk-0/root/m").status != 0


def test_a_clone_that_is_killed_leaves_both_containers_locked(node: Node, ct: str) -> None:
    with _faults(node, "clone-half = die"):
        assert node.pct(f"clone {ct} {COPY} --snapname first").status != 0
    assert "lock: disk\n" in node.conf(ct)
    assert "lock: create\n" in node.conf(COPY)
    assert "CT is locked (disk)" in node.pct(f"snapshot {ct} second").err
    assert not re.search("^rootfs", node.conf(COPY), re.MULTILINE)


def test_a_clone_that_is_killed_leaves_a_volume_that_its_destruction_does_not_take(node: Node, ct: str) -> None:
    with _faults(node, "clone-copied = die"):
        assert node.pct(f"clone {ct} {COPY} --snapname first").status != 0
    node.must("pct", "unlock", COPY)
    node.must("pct", "destroy", COPY)
    volume = f"lxc-disks:subvol-{COPY}-disk-0"
    listed = f"pvesm list lxc-disks --vmid {COPY}".split()
    assert node.must(*listed).splitlines()[1].split()[0] == volume
    node.must("pvesm", "free", volume)
    assert len(node.must(*listed).splitlines()) == 1


def _value(conf: str, key: str, option: str) -> str:
    line = next(line for line in conf.splitlines() if line.startswith(f"{key}: "))
    return dict(part.split("=") for part in line.split(" ", 1)[1].split(","))[option]


# ---- faults ----


@contextmanager
def _faults(node: Node, *lines: str) -> Iterator[None]:
    """Put faults into the node's commands while a block runs."""
    node.must("sh", "-c", f'printf "%s\\n" "$@" > {FAULTS}', "sh", *lines)
    try:
        yield
    finally:
        node.must("rm", "-f", FAULTS)


def test_a_random_status_is_one_of_those_that_the_real_one_has_shown(node: Node) -> None:
    with _faults(node, "status = status random", "pvesh = status random"):
        seen = {node.pct("status 999").status for _ in range(10)}
        seen_of_api = {node.run("pvesh", "get", "/nosuch").status for _ in range(10)}
        assert node.pct("status 903").status == 0
        assert node.pct("exec 999 -- true").status == 2, "other verbs keep their status"
    assert seen <= {1, 2, 255}
    assert seen_of_api <= {1, 2, 255}
    assert len(seen | seen_of_api) > 1
    assert node.pct("status 999").status == 2


def test_a_misspelt_fault_is_an_error(node: Node) -> None:
    with _faults(node, "status = statsu random"):
        assert node.pct("status 903").status not in (0, 2, 255)


# ---- how it ends, and what it writes (seen on the real one) ----

ENDS = {
    "pct config 931 --snapshot nosuch": 255,
    "pct unlock 931": 255,
    "pct clone 931 903": 255,
    "pct clone 931 933 --storage nosuch": 255,
    "pct resize 931 rootfs 1M": 255,
    "pct resize 931 mp0 9G": 255,
    "pct set 931 --delete nosuch": 255,
    "pct config 999": 2,
    "pct set 931 --memory none": 2,
    "pvesh get /nodes/pve/lxc/931/snapshot/nosuch/config": 255,
    "pvesh get /nodes/nosuch/lxc": 11,
    "pvesm status --storage nosuch": 255,
    "pvesm path lxc-disks:nosuch": 255,
}


@pytest.mark.parametrize("line", ENDS)
def test_refusals_end_with_the_status_that_the_real_one_has_shown(node: Node, still: str, line: str) -> None:
    answer = node.run(*line.split())
    assert (answer.status, answer.refused) == (ENDS[line], True), answer


# Seen on the real one, or in its sources (pve-container, src/PVE/CLI/pct.pm, src/PVE/API2/LXC.pm and LXC/Status.pm).
WORDS = {
    "reboot 931": "VM 931 not running",
    "suspend 931": "CT 931 not running",
    "template 931": "unable to create template, because CT contains snapshots",
    "fsck 931": "unable to run fsck for 'lxc-disks:subvol-931-disk-0' (format == subvol)",
    "resume 931": "not simulated: the lab's pct can't resume container 931; the real one can",
    "migrate 931 elsewhere": "not simulated: the lab's pct has no 'migrate'; the real one has",
}


@pytest.mark.parametrize("line", WORDS)
def test_verbs_that_change_nothing_here_say_what_the_real_one_says_or_that_they_are_not_simulated(
    node: Node, still: str, line: str
) -> None:
    answer = node.pct(line)
    assert (answer.status, answer.err.strip()) == (255, WORDS[line])


def test_a_reboot_brings_what_waits_for_the_next_start(node: Node, ct: str) -> None:
    """And `pct pending` shows it before, `pct rescan` finds nothing to change."""
    node.must("pct", "start", ct)
    node.must("pct", "set", ct, "--features", "nesting=1,keyctl=1")
    assert "\ncur features: nesting=1\nnew features: nesting=1,keyctl=1\n" in node.pct(f"pending {ct}").out
    assert node.pct(f"suspend {ct}").err.startswith("not simulated: ")
    assert node.pct(f"fsck {ct}").err == "cannot run fsck on active container\n"
    assert node.pct(f"resume {ct}").err == f"CT {ct} already running\n"
    before = node.confs()
    assert node.pct("rescan --dryrun 1").out == (
        "NOTE: running in dry-run mode, won't write changes out!\nrescan volumes...\n"
    )
    assert node.confs() == before
    node.must("pct", "reboot", ct, "--timeout", "30")
    assert node.pct(f"status {ct}").out == "status: running\n"
    assert "\ncur features: nesting=1,keyctl=1\n" in (now := node.pct(f"pending {ct}").out)
    assert "new " not in now
    node.must("pct", "stop", ct)


def test_a_description_is_written_as_the_real_one_writes_it(node: Node, ct: str) -> None:
    node.must("pct", "set", ct, "--description", "a:b%c#d")
    assert node.conf(ct).startswith("#a%3Ab%25c#d\n")
    assert "description: a%3Ab%25c#d%0A\n" in node.pct(f"config {ct}").out
    assert _get(node, f"/nodes/pve/lxc/{ct}/config")["description"] == "a:b%c#d\n"


# ---- limits ----

LIMIT = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null"
EAT = "b = bytearray({} << 20)"


def test_memory_and_cores_are_limited_in_the_container(node: Node, ct: str) -> None:
    node.must("pct", "start", ct)
    assert node.must("pct", "exec", ct, "--", "sh", "-c", LIMIT + "||:") == f"{256 << 20}\n"
    assert node.must("pct", "exec", ct, "--", "nproc") == "1\n"
    assert node.run("pct", "exec", ct, "--", "python3", "-c", EAT.format(100)).status == 0
    assert node.run("pct", "exec", ct, "--", "python3", "-c", EAT.format(300)).status == 137


def test_other_limits_reach_the_running_container(node: Node, ct: str) -> None:
    node.must("pct", "start", ct)
    cores = min(2, os.cpu_count() or 1)
    node.must(*f"pct set {ct} --memory 512 --cores {cores}".split())
    assert node.must("pct", "exec", ct, "--", "sh", "-c", LIMIT + "||:") == f"{512 << 20}\n"
    assert node.must("pct", "exec", ct, "--", "nproc") == f"{cores}\n"
    assert node.run("pct", "exec", ct, "--", "python3", "-c", EAT.format(300)).status == 0


def test_what_a_running_container_can_not_take_waits_for_its_next_start(node: Node, ct: str) -> None:
    node.must("pct", "start", ct)
    node.must(*f"pct set {ct} --features nesting=1,keyctl=1".split())
    assert "\n[pve:pending]\nfeatures: nesting=1,keyctl=1\n\n[first]\n" in node.conf(ct)
    assert "features: nesting=1\n" in node.pct(f"config {ct} --current").out
    assert "features: nesting=1,keyctl=1\n" in node.pct(f"config {ct}").out
    answer = node.pct(f"set {ct} --net0 name=eth0,bridge=vmbr0,ip=10.77.0.94/24")
    assert answer.refused
    assert "net0: unable to hotplug net0" in answer.err
    node.must(*f"pct set {ct} --revert net0".split())
    node.must("pct", "stop", ct)
    node.must("pct", "start", ct)
    assert "pve:pending" not in node.conf(ct)
    assert "features: nesting=1,keyctl=1\n" in node.pct(f"config {ct} --current").out


def test_a_device_has_the_mode_and_owner_that_are_asked_for(node: Node, ct: str) -> None:
    node.must(*f"pct set {ct} --dev0 /dev/nvidia0 --dev1 /dev/nvidia1,mode=0640,gid=44".split())
    node.must("pct", "start", ct)
    seen = node.must("pct", "exec", ct, "--", "stat", "-c", "%t:%T %a %g", "/dev/nvidia0", "/dev/nvidia1")
    assert seen.splitlines() == ["c3:0 666 0", "c3:1 640 44"]


def test_a_missing_device_is_refused_before_writing_and_an_older_one_after(node: Node, ct: str) -> None:
    before = node.confs()
    answer = node.pct(f"set {ct} --dev0 /dev/nosuch --memory 300")
    assert answer.refused
    assert answer.err == "Device /dev/nosuch does not exist\n"
    assert node.confs() == before
    node.shell(f"sed -i '0,/^cores/s//dev0: \\/dev\\/nosuch\\ncores/' {CONF}/{ct}.conf")
    assert node.pct(f"set {ct} --memory 300").err == "Device /dev/nosuch does not exist\n"
    assert "memory: 300\n" in node.conf(ct), (
        "as the real one: the settings are written before all devices are looked at"
    )
    assert node.pct(f"start {ct}").err == "Device /dev/nosuch does not exist\n"


def test_a_folder_of_the_node_is_mounted_and_makes_snapshots_and_clones_impossible(node: Node, ct: str) -> None:
    node.shell("mkdir -p /srv/models; echo here > /srv/models/file")
    node.must(*f"pct set {ct} --mp0 /srv/models,mp=/models,ro=1".split())
    assert node.pct(f"snapshot {ct} second").err == "snapshot feature is not available\n"
    assert node.pct(f"clone {ct} {COPY}").err == "unable to clone mountpoint 'mp0' (type bind)\n"
    node.must("pct", "start", ct)
    assert node.must("pct", "exec", ct, "--", "cat", "/models/file") == "here\n"
    assert node.run("pct", "exec", ct, "--", "touch", "/models/file").status != 0


def test_a_volume_of_its_own_is_snapshotted_copied_resized_and_removed_with_the_container(node: Node, ct: str) -> None:
    """Written as PVE/LXC/Config.pm writes mount points: the size is added, `mp` comes first."""
    node.must(*f"pct set {ct} --mp0 lxc-disks:2,backup=0,mp=/data".split())
    assert f"\nmp0: lxc-disks:subvol-{ct}-disk-1,mp=/data,backup=0,size=2G\n" in node.conf(ct)
    data = f"/lxc-disks/subvol-{ct}-disk-1"
    node.must("touch", f"{data}/file")
    node.must("pct", "snapshot", ct, "second")
    node.must("pct", "start", ct)
    node.must("pct", "exec", ct, "--", "mv", "/data/file", "/data/later")
    node.must("pct", "rollback", ct, "second")
    assert node.must("ls", data) == "file\n"
    said = node.must("pct", "clone", ct, COPY)
    assert f"create full clone of mountpoint mp0 (lxc-disks:subvol-{ct}-disk-1)\n" in said
    assert f"\nmp0: lxc-disks:subvol-{COPY}-disk-1,mp=/data,backup=0,size=2G\n" in node.conf(COPY)
    assert node.must("ls", f"/lxc-disks/subvol-{COPY}-disk-1") == "file\n"
    node.must("pct", "destroy", COPY)
    node.must("pct", "resize", ct, "mp0", "3G")
    assert "backup=0,size=3G\n" in node.conf(ct)
    node.must("pct", "delsnapshot", ct, "second")
    node.must("pct", "destroy", ct)
    left = node.shell(f"ls -d /lxc-disks/subvol-* /lxc-disks/.snapshots/subvol-* | grep -e -{ct}- -e -{COPY}- || true")
    assert left == ""


def test_a_protected_container_can_not_be_destroyed_and_a_template_does_not_run(node: Node, ct: str) -> None:
    node.must(*f"pct set {ct} --protection 1".split())
    assert node.pct(f"destroy {ct} --force").err == f"can't remove CT {ct} - protection mode enabled\n"
    node.must(*f"pct set {ct} --delete protection --template 1".split())
    assert node.pct(f"start {ct}").err == "you can't start a CT if it's a template\n"
    assert node.pct(f"snapshot {ct} second").err == "you can't take a snapshot if it's a template\n"
    assert node.pct(f"rollback {ct} first").err == "you can't rollback if vm is a template\n"


# ---- snapshots ----


def test_rollback_restores_files_and_settings_and_stops_the_container(node: Node, ct: str) -> None:
    node.must(*f"pct set {ct} --memory 512 --description now".split())
    node.must("pct", "start", ct)
    node.must("pct", "exec", ct, "--", "sh", "-c", "echo later > /root/m; rm /etc/debian_version")
    node.must("pct", "rollback", ct, "first")
    assert node.pct(f"status {ct}").out == "status: stopped\n"
    conf = node.conf(ct)
    assert "memory: 256\n" in conf.partition("[first]")[0]
    assert "parent: first\n" in conf
    assert conf.startswith("#now\n"), "as the real one: the description stays"
    assert "lock:" not in conf
    root = f"/lxc-disks/subvol-{ct}-disk-0"
    node.must("test", "-e", f"{root}/etc/debian_version", "-a", "!", "-e", f"{root}/root/m")
    node.must("pct", "rollback", ct, "first", "--start")
    assert node.pct(f"status {ct}").out == "status: running\n"


def test_rollback_is_possible_to_the_most_recent_snapshot_only(node: Node, ct: str) -> None:
    node.must("pct", "snapshot", ct, "second")
    node.shell(f"sed -i 's/^snaptime: .*/snaptime: 1795493410/' {CONF}/{ct}.conf")
    before = node.confs()
    answer = node.pct(f"rollback {ct} first")
    assert answer.refused
    assert answer.err == f"can't rollback, 'first' is not most recent snapshot on 'lxc-disks:subvol-{ct}-disk-0'\n"
    assert node.confs() == before
    node.must("pct", "delsnapshot", ct, "second")
    assert "parent: first\n" in node.conf(ct)
    node.must("pct", "rollback", ct, "first")


def test_a_half_made_snapshot_is_marked_refused_and_can_be_mended(node: Node, ct: str) -> None:
    with _faults(node, "snapshot-half = die"):
        assert node.pct(f"snapshot {ct} second").status != 0
    conf = node.conf(ct)
    assert "lock: snapshot\n" in conf.partition("\n[")[0] + "\n"
    assert "snapstate: prepare\n" in conf.partition("[second]")[2]
    assert node.pct(f"rollback {ct} second").refused
    assert "CT is locked (snapshot)" in node.pct(f"delsnapshot {ct} second --force").err
    node.must("pct", "unlock", ct)
    assert node.pct(f"rollback {ct} second").refused
    assert node.conf(ct) == conf.replace("lock: snapshot\n", "")
    node.must("pct", "delsnapshot", ct, "second", "--force")
    assert "second" not in node.conf(ct)
    assert "lock:" not in node.conf(ct)
    node.must("pct", "snapshot", ct, "second")


def test_a_half_made_snapshot_is_not_deleted_without_force(node: Node, ct: str) -> None:
    with _faults(node, "snapshot-half = die"):
        node.pct(f"snapshot {ct} second")
    node.must("pct", "unlock", ct)
    assert node.pct(f"delsnapshot {ct} second").refused
    assert "lock: snapshot-delete\n" in node.conf(ct)
    assert "snapstate: delete\n" in node.conf(ct)


def test_a_worker_that_is_told_to_end_leaves_the_storage_its_snapshot(node: Node, ct: str) -> None:
    """`zfs snapshot` was done, and the property that follows it was not."""
    before = node.conf(ct)
    with _faults(node, "snapshot-stored = sh kill $PPID; sleep 1"):
        answer = node.pct(f"snapshot {ct} second")
    assert (answer.status, answer.out) == (255, "snapshot create failed: starting cleanup\n")
    assert "received interrupt" in answer.err
    assert node.conf(ct) == before
    node.must("test", "-d", f"/lxc-disks/.snapshots/subvol-{ct}-disk-0@second")
    assert "dataset already exists" in node.pct(f"snapshot {ct} second").err


@pytest.mark.parametrize(("moment", "left"), [("half", True), ("freed", False)])
def test_a_half_deleted_snapshot_is_marked_and_locked(node: Node, ct: str, moment: str, left: bool) -> None:
    with _faults(node, f"delsnapshot-{moment} = die"):
        assert node.pct(f"delsnapshot {ct} first").status != 0
    conf = node.conf(ct)
    assert "lock: snapshot-delete\n" in conf.partition("\n[")[0] + "\n"
    assert "snapstate: delete\n" in conf.partition("[first]")[2]
    assert ("@first" in node.shell(f"ls /lxc-disks/.snapshots | grep {ct} || true")) is left
    assert "CT is locked (snapshot-delete)" in node.pct(f"delsnapshot {ct} first --force").err
    node.must("pct", "unlock", ct)
    assert node.pct(f"delsnapshot {ct} first").refused is not left
    if not left:
        node.must("pct", "unlock", ct)
        node.must("pct", "delsnapshot", ct, "first", "--force")
    assert "first" not in node.conf(ct)


def test_a_snapshot_that_the_disk_already_has_is_refused_and_leaves_no_mark(node: Node, ct: str) -> None:
    before = node.conf(ct)
    node.shell(f"cd /lxc-disks; btrfs -q subvolume snapshot -r subvol-{ct}-disk-0 .snapshots/subvol-{ct}-disk-0@second")
    assert node.pct(f"snapshot {ct} second").refused
    assert node.conf(ct) == before


def test_snapshots_are_listed_as_a_tree(node: Node, ct: str) -> None:
    node.must("pct", "snapshot", ct, "second")
    listing = normal(node.pct(f"listsnapshot {ct}").out.splitlines())
    assert listing == [
        "`-> first                       TIME     the first",
        " `-> second                     TIME     no-description",
        "  `-> current                                           You are here!",
    ]


# ---- the API and the storage ----


def test_the_api_tells_the_same_as_pct(node: Node, ct: str) -> None:
    config = _get(node, f"/nodes/pve/lxc/{ct}/config")
    assert (config["memory"], config["cores"], config["hostname"]) == (256, 1, "test")
    first, current = _get(node, f"/nodes/pve/lxc/{ct}/snapshot")
    assert (first["name"], first["description"]) == ("first", "the first\nof all\n")
    assert (current["name"], current["parent"], current["running"]) == ("current", "first", 0)
    snapshot = _get(node, f"nodes/localhost/lxc/{ct}/snapshot/first/config")
    assert snapshot["snaptime"] == first["snaptime"]
    assert "parent" not in snapshot


def _get(node: Node, path: str) -> Any:
    return json.loads(node.must("pvesh", "get", path, "--output-format", "json"))


def test_the_api_changes_the_description_of_a_snapshot_and_nothing_else(node: Node, ct: str) -> None:
    before = node.conf(ct)
    node.must(*DESCRIBE.split(), "--description", "accepted: 100%\nby me")
    assert node.conf(ct) == before.replace("#the first\n#of all\n", "#accepted%3A 100%25\n#by me\n")
    node.must(*DESCRIBE.split())
    assert "#accepted" in node.conf(ct), "without a description nothing changes"
    node.must(*DESCRIBE.split(), "--description", "")
    assert "#" not in node.conf(ct)


REFUSED_BY_API = (
    "| frob /version | get | get /nosuch | get /nodes/pve/nosuch | get /nodes/elsewhere/lxc | get /version more"
    "| get /version --frob 1 | get /version output-format json | get /version --output-format xml"
    "| get /version --output-format | get /nodes/pve/lxc/999/config | get /nodes/pve/lxc/nosuch/config"
    "| get /nodes/pve/lxc/931/config --snapshot nosuch | get /nodes/pve/lxc/931/config --current --snapshot first"
    "| get /nodes/pve/lxc/931/config --current maybe | get /nodes/pve/lxc/931/snapshot/nosuch/config"
    "| get /cluster/resources --type cow | set /version --description x | set /nodes/pve/lxc/931/config --cores 2"
    "| set /nodes/pve/lxc/931/snapshot/nosuch/config --description x | delete /nodes/pve/lxc/931"
    "| create /nodes/pve/lxc/931/snapshot --snapname second | set /nodes/pve/lxc/931/snapshot/9bad/config"
    "| set /nodes/pve/lxc/931/snapshot/first/config --memory 1"
    "| set /nodes/pve/lxc/931/snapshot/first/config description x"
    "| set /nodes/pve/lxc/931/snapshot/first/config --description"
    "| set /nodes/pve/lxc/931/snapshot/first/config --description x y"
)
REFUSED_BY_STORAGE = (
    "| frob | status --frob | status more | status --storage elsewhere | list | list elsewhere"
    "| list lxc-disks --vmid x | path | path elsewhere:x | path lxc-disks:x | path lxc-disks"
)


def test_what_the_api_does_not_know_is_refused_and_changes_nothing(node: Node, still: str) -> None:
    assert still == "931"
    before = node.confs()
    lines = [f"pvesh {rest}" for rest in REFUSED_BY_API.split("|")]
    lines += [f"pvesm {rest}" for rest in REFUSED_BY_STORAGE.split("|")]
    assert node.taken([*lines, "pveversion --frob"]) == []
    assert node.confs() == before


def test_a_locked_container_is_left_alone(node: Node, ct: str) -> None:
    node.must(*f"pct set {ct} --lock backup".split())
    before = node.confs()
    verbs = (
        "start",
        "snapshot 2nd",
        "rollback first",
        "delsnapshot first",
        "set --cores 1",
        "resize rootfs 9G",
        "destroy",
    )
    lines = [f"{verb.partition(' ')[0]} {ct} {verb.partition(' ')[2]}" for verb in (*verbs, f"clone {COPY}")]
    lines = [line.replace("2nd", "second") for line in lines]
    answers = {line: answer for line in lines if "CT is locked (backup)" not in (answer := node.pct(line)).err}
    assert not answers
    assert "CT is locked (backup)" in node.run(*DESCRIBE.split(), "--description", "x").err
    assert node.confs() == before
    assert _get(node, f"/nodes/pve/lxc/{ct}/status/current")["lock"] == "backup"


def test_lines_that_make_no_sense_are_warned_of_and_dropped_by_the_next_change(node: Node, ct: str) -> None:
    node.shell(f"sed -i '1i lxc.rootfs.path: /\\nNONSENSE' {CONF}/{ct}.conf")
    answer = node.pct(f"set {ct} --memory 300")
    assert answer.status == 0
    assert answer.err.splitlines() == [
        f"vm {ct} - unable to parse config: lxc.rootfs.path: /",
        f"vm {ct} - unable to parse config: NONSENSE",
    ]
    assert "NONSENSE" not in node.conf(ct)


def test_a_setting_that_was_spoiled_with_an_editor_is_refused_at_the_start(node: Node, ct: str) -> None:
    node.shell(f"sed -i 's/name=eth0,//' {CONF}/{ct}.conf")
    answer = node.pct(f"start {ct}")
    assert answer.refused
    assert "name: property is missing and it is not optional" in answer.err
