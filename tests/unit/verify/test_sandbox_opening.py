"""Opening the sandbox: refused with one clear message where it is missing or does not hold."""

import os
import subprocess
from dataclasses import replace

import pytest

from tabom.core.errors import ConfigError
from tabom.verify.checkers import build_checker
from tabom.verify.config import VerifierConfig
from tabom.verify.sandbox import command, probe
from tabom.verify.sandbox.run import Limits, Outcome, Sandbox, _Said


def unsafe(**limits):
    limits = Limits(**{"timeout_s": 1.5, **limits})
    return probe.open_sandbox(limits=limits, num_slots=1, is_unsafe=True)


def test_without_bwrap_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(command.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError) as error:
        build_checker(VerifierConfig(type="code"))
    text = str(error.value)
    for part in ("there is no bwrap", "apt-get install bubblewrap", "--unsafe_exec"):
        assert part in text
    assert "\n" not in text


def test_a_leak_is_refused_and_named(monkeypatch):
    ran = []

    def leaky(self, code, **kwargs):
        ran.append(code)
        return Outcome("passed")

    monkeypatch.setattr(probe, "missing_tools", lambda: None)
    monkeypatch.setattr(Sandbox, "run", leaky)
    with pytest.raises(ConfigError, match="does not hold on this machine: a file of the host was"):
        build_checker(VerifierConfig(type="code"))
    assert len(ran) == 7  # one start, six attacks


def test_a_sandbox_that_does_not_start_is_refused(monkeypatch):
    monkeypatch.setattr(probe, "missing_tools", lambda: None)
    monkeypatch.setattr(
        Sandbox, "run", lambda self, code, **_: Outcome("not_started", "setting up uid map: no")
    )
    with pytest.raises(ConfigError, match=r"does not start .*setting up uid map: no"):
        build_checker(VerifierConfig(type="code"))


def test_the_probe_finds_what_a_plain_process_can_do():
    """The attacks are real: without walls they work, so that a blocked one means something."""
    found = probe.probe(unsafe(processes=8))
    assert "a file of the host was written" in found
    assert "a file of the host was read" in found
    assert "the network was reached" in found
    assert "a program that ends itself passed" not in found
    if os.geteuid() == 0:
        # The attack has a clock too: on a machine that is busy it may not get its forks in time.
        forked = "40 processes were started"
        assert any(forked in probe.probe(unsafe(processes=8)) for _ in range(5))


def test_the_probe_passes_where_the_sandbox_holds(sandbox):
    assert probe.probe(sandbox) == []


def test_unsafe_is_asked_for_and_recorded():
    checker = build_checker(VerifierConfig(type="code", args={"unsafe_exec": True}, num_workers=1))
    assert checker.name == "code (no sandbox)"


def test_unsafe_runs_still_have_a_clock_and_limits():
    box = unsafe()
    assert box.run("x = 1", kind="asserts", tests=["assert x == 1"]).state == "passed"
    assert box.run("while True: pass", kind="asserts", tests=["pass"]).state == "timeout"
    memory = box.run("x = bytearray(8 * 2**30)", kind="asserts", tests=["pass"])
    assert memory.detail == "the code raised MemoryError"


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ({"timeout": 3}, "verifier.args.timeout'; did you mean 'timeout_s'"),
        ({"timeout_s": 0}, "verifier.args.timeout_s must be above 0, got 0"),
        ({"memory_mb": "1G"}, "verifier.args.memory_mb: expected an integer, found '1G'"),
        ({"unsafe_exec": "yes"}, "verifier.args.unsafe_exec: expected true or false, found 'yes'"),
    ],
)
def test_args_are_checked(args, text):
    with pytest.raises(ConfigError, match=text):
        build_checker(VerifierConfig(type="code", args=args))


def test_a_missing_interpreter_is_named(sandbox):
    with pytest.raises(ConfigError, match="/nowhere/python did not run in it"):
        probe.open_sandbox(limits=Limits(), num_slots=1, python="/nowhere/python")


def test_root_gives_up_its_rights_first(monkeypatch):
    line = command.sandbox_command("/usr/bin/python3", ["-V"], slot=3, tmp_mb=1)
    if os.geteuid() == 0:
        other = command.sandbox_command("/usr/bin/python3", ["-V"], slot=4, tmp_mb=1)
        assert line[1] == "--reuid"
        assert int(line[2]) >= 60000
        assert line[2] != other[2]
    monkeypatch.setattr(command.os, "geteuid", lambda: 1000)
    assert "bwrap" in command.sandbox_command("/usr/bin/python3", ["-V"], slot=3, tmp_mb=1)[0]


def test_uids_of_accounts_are_left_out(monkeypatch):
    class Account:
        pw_uid = 60_001

    command._free_uids.cache_clear()
    monkeypatch.setattr(command.pwd, "getpwall", lambda: [Account])
    assert command._free_uids(3) == [60_000, 60_002, 60_003]
    command._free_uids.cache_clear()


def test_a_busy_start_is_tried_once_more(sandbox, monkeypatch):
    calls = []
    execute = Sandbox._execute

    def flaky(self, job, slot, cap):
        calls.append(slot)
        return _Said([], "bwrap: busy", "") if len(calls) == 1 else execute(self, job, slot, cap)

    monkeypatch.setattr(Sandbox, "_execute", flaky)
    assert sandbox.run("x = 1", kind="asserts", tests=["pass"]).state == "passed"
    monkeypatch.setattr(Sandbox, "_execute", lambda *_: _Said([], "bwrap: broken", ""))
    outcome = sandbox.run("x = 1", kind="asserts", tests=["pass"])
    assert outcome == Outcome("not_started", "bwrap: broken")


def test_a_killed_parent_leaves_no_program_behind(sandbox, tmp_path):
    """`kill -9` on us: bubblewrap goes with the thread that started it, and its programs too."""
    import signal
    import sys
    import time
    from pathlib import Path

    marker = f"tabom-left-{os.getpid()}"
    code = (
        "from tabom.verify.sandbox.run import Limits, Sandbox\n"
        f"s = Sandbox(python={sandbox.python!r}, limits=Limits(timeout_s=30), num_slots=1)\n"
        "print('go', flush=True)\n"
        f's.run(\'import os, sys; os.execv(sys.executable, ["p", "-c", '
        f"\"import time; time.sleep(60)\", \"{marker}\"])', kind='asserts', tests=['pass'])\n"
    )

    def left():
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if marker.encode() in path.read_bytes().split(b"\0"):
                    found.append(path)
            except OSError:
                continue
        return found

    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        parent.stdout.readline()
        deadline = time.monotonic() + 10
        while not left() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left()
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while left() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left() == []


def test_limits_are_settings():
    assert replace(Limits(), processes=4).processes == 4
