# ruff: noqa: E501  the attacks stand as they are tried
"""Programs that want a verdict they have not earned, or more than they are given.

Each is tried as this user and, by the slow test at the end, as an ordinary one. A program of
WRONG is wrong by its tests and must not pass; one of OUT must fail by itself or be stopped.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tabom.verify.checker import Response
from tabom.verify.code import judge_code

WRONG_F = "def f(x): return 0\n"
CLIMB = """
import sys
frame = sys._getframe()
while frame is not None:
    for name, value in list(frame.f_locals.items()):
        {action}
    frame = frame.f_back
"""
# What is done to the program inside the sandbox. The tests ask for f(1) == 2, which no program here computes.
WRONG = {
    "lists of tests found in frames are cleared": CLIMB.format(
        action="value.clear() if isinstance(value, list) else None"
    ),
    "dictionaries found in frames are cleared": CLIMB.format(
        action="value.clear() if isinstance(value, dict) and name != 'f_globals' else None"
    ),
    "say is called from a frame": CLIMB.format(
        action="value('done', 1) if name == 'say' else None"
    ),
    "say tells a value": CLIMB.format(
        action="(value('value', [0, ['int', '0x3']]), value('done', 1)) if name == 'say' else None"
    ),
    "lists found by gc are cleared": "import gc\n[o.clear() for o in gc.get_objects() if type(o) is list]",
    "tuples and functions found by gc are called": "import gc\n"
    "for o in gc.get_objects():\n"
    "    if type(o).__name__ == 'function' and o.__name__ == 'say':\n"
    "        o('done', 1)",
    "the JSON encoder is replaced": "import json\n"
    "json._default_encoder = json.JSONEncoder.encode = lambda *a, **k: '[\"done\", 1]'\n"
    "json.dumps = lambda *a, **k: '[\"done\", 1]'",
    "the encoder in C is replaced": "import json.encoder\n"
    "json.encoder.c_make_encoder = json.encoder.encode_basestring_ascii = lambda *a: '\"done\"'",
    "os.write is replaced": "import os\nos.write = lambda fd, data: len(data)",
    "compile, exec and eval are replaced": "import builtins\n"
    "builtins.exec = builtins.eval = builtins.compile = lambda *a, **k: 2",
    "builtin types are replaced": "import builtins\n"
    "for n in ('int', 'list', 'type', 'issubclass', 'isinstance', 'hex', 'str', 'AssertionError'):\n"
    "    setattr(builtins, n, lambda *a, **k: 2)",
    "the module is another": "import sys\nsys.modules['solution'].__class__ = type('M', (type(sys),), {})",
    "a value that is equal to all": "class E(int):\n    def __eq__(s, o): return True\n"
    "    def __index__(s): return 7\n    __hash__ = int.__hash__\ndef f(x): return E(0)",
    "an object that is equal to all": "class E:\n    def __eq__(s, o): return True\n"
    "    def __bool__(s): return True\ndef f(x): return E()",
    "a type that says it is an int": "class M(type):\n    def __eq__(s, o): return True\n"
    "    def __hash__(s): return hash(int)\n    __instancecheck__ = __subclasscheck__ = lambda *a: True\n"
    "class E(metaclass=M):\n    __class__ = int\ndef f(x): return E()",
    "an ABC that claims everything": "import abc\nclass A(abc.ABC):\n"
    "    @classmethod\n    def __subclasshook__(c, o): return True\nclass E(A): pass\ndef f(x): return E()",
    "AssertionError swallows": "import builtins\nbuiltins.AssertionError = type('X', (Exception,), {})",
    "a trace that skips": "import sys\n"
    "def t(frame, event, arg):\n    if frame.f_code.co_filename == '<tests>': frame.f_trace_lines = False\n"
    "    return t\nsys.settrace(t)",
    "a profile that ends it": "import sys, os\nsys.setprofile(lambda *a: None)",
    "the interpreter is replaced": "import os, sys\n"
    "def f(x): os.execv(sys.executable, ['p', '-c', 'print(\"passed\")'])",
    "a child answers": "import os\nif os.fork() == 0:\n    pass\n" + WRONG_F,
    "a thread answers": "import threading, os\n"
    "threading.Thread(target=lambda: [os.write(n, b'[\"done\", 1]\\n') for n in range(3, 9)]).start()",
    "every descriptor is written to": "import os\nfor n in range(64):\n"
    "    try: os.write(n, b'[\"value\", [0, [\"int\", \"0x2\"]]]\\n[\"done\", 1]\\n')\n    except OSError: pass",
    "the descriptor of the program inside is closed": "import os\nos.closerange(3, 64)",
    "standard output is put on the channel": "import os\nfor n in range(3, 9):\n"
    "    try: os.dup2(n, 1); print('[\"done\", 1]', flush=True)\n    except OSError: pass",
    "the memory of the process is written": "import os\n"
    "open('/proc/self/mem', 'r+b', 0).close()\nopen('/proc/1/mem', 'r+b', 0)",
    "the parent's memory is opened": "import os\nopen(f'/proc/{os.getppid()}/mem', 'r+b', 0).read(1)",
    "a test's source is looked for": "import linecache, sys\nprint(linecache.cache, sys.argv, sys.orig_argv)",
    "the entry is a class": "class f:\n    def __new__(cls, x): return cls\n    def __eq__(s, o): return True",
    "the entry is a module attribute trick": "import sys\nsys.modules[__name__].f = lambda x: NotImplemented",
    "finalizers answer": "import weakref, os\nclass A:\n    def __del__(s): os._exit(0)\na = A()\n" + WRONG_F,
    "an exit handler answers": "import atexit\natexit.register(print, '[\"done\", 1]')\n" + WRONG_F,
    "signals end it": "import signal, os\nsignal.signal(signal.SIGALRM, lambda *a: os._exit(0))\n"
    "signal.setitimer(signal.ITIMER_REAL, 0.01)\ndef f(x):\n    while True: pass",
    "__builtins__ is emptied": "__builtins__.__dict__.clear()",
    "import hooks lie": "import sys\nsys.meta_path.clear(); sys.modules.clear()",
    "a codec lies": "import codecs\ncodecs.register(lambda n: None)\nstr.encode",
}  # fmt: skip
# What must not be had. Each raises where it was refused; the limits stop the rest.
OUT = {
    "AF_VSOCK": "import socket; socket.socket(40, socket.SOCK_STREAM)",
    "AF_PACKET": "import socket; socket.socket(17, socket.SOCK_RAW)",
    "AF_ALG": "import socket; socket.socket(38, 5)",
    "AF_BLUETOOTH": "import socket; socket.socket(31, socket.SOCK_STREAM)",
    "AF_CAN": "import socket; socket.socket(29, socket.SOCK_RAW)",
    "a raw socket": "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "memfd": "import os; os.memfd_create('x')",
    "memfd_secret": "import ctypes; assert ctypes.CDLL(None).syscall(447, 0) >= 0",
    "shared segments": "import ctypes; assert ctypes.CDLL(None).shmget(0, 2**20, 0o1600) >= 0",
    "ptrace": "import ctypes; assert ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0",
    "another's memory": "import ctypes; assert ctypes.CDLL(None).process_vm_readv(1, 0, 0, 0, 0, 0) == 0",
    "io_uring": "import ctypes; assert ctypes.CDLL(None).syscall(425, 1, 0) >= 0",
    "bpf": "import ctypes; assert ctypes.CDLL(None).syscall(321, 0, 0, 0) >= 0",
    "keys of the kernel": "import ctypes; assert ctypes.CDLL(None).syscall(250, 0, -3, 1) >= 0",
    "performance counters": "import ctypes; assert ctypes.CDLL(None).syscall(298, 0, 0, -1, -1, 0) >= 0",
    "chroot": "import os; os.chroot('/tmp')",
    "a device": "import os, stat; os.mknod('/tmp/x', stat.S_IFBLK | 0o600, os.makedev(8, 0))",
    "the clock": "import time; time.clock_settime(time.CLOCK_REALTIME, 0)",
    "the host's name": "import socket; socket.sethostname('x'); open('/etc/hostname').read()",
    "system settings": "open('/proc/sys/kernel/core_pattern', 'w').write('x')",
    "a namespace by clone": "import os; os.unshare(os.CLONE_NEWNET) if hasattr(os, 'unshare') else 1 / 0",
    "a set-id program": "import os; os.open('/tmp/x', os.O_CREAT); os.chmod('/tmp/x', 0o4755); os.setuid(0)",
    "the file of the program inside": "open('/proc/self/exe', 'r+b')",
    "priority": "import os; os.setpriority(os.PRIO_PROCESS, 0, -10)",
    "more open files": "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))",
    "many open files": "files = [open('/dev/null') for _ in range(100)]",
    "locked memory": "import ctypes, mmap; m = mmap.mmap(-1, 2**20); "
    "assert ctypes.CDLL(None).mlockall(3) == 0",
    "a huge file": "f = open('/tmp/x', 'wb'); f.truncate(2**40); f.write(b'x')",
    "a mapping of eight gigabytes": "import mmap; mmap.mmap(-1, 2**33)",
    "a control group": "import os; os.mkdir('/sys/fs/cgroup/x')",
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_forged_verdict_is_not_given(sandbox, name):
    code = WRONG[name] + ("" if "def f" in WRONG[name] else "\n" + WRONG_F)
    for entry in (None, "f"):
        for test in (
            "assert f(1) == 2",
            "assert f(2) == f(1) + 1",
            "assert f(1) != 0 and f(1) == 2",
        ):
            outcome = sandbox.run(code, kind="asserts", tests=[test], entry_point=entry)
            if ("equal to all" in name and "f(2)" in test) or "claims everything" in name:
                continue  # compared inside: docs/verification.md says so
            assert outcome.state != "passed", (test, outcome)


@pytest.mark.parametrize("name", OUT)
def test_what_is_out_of_bounds_is_refused(sandbox, name):
    outcome = sandbox.run(OUT[name], kind="asserts", tests=["pass"])
    assert outcome.state != "passed", outcome


PROGRAM_ATTACKS = {
    "outputs are looked for in frames": "import sys\nf = sys._getframe()\nwhile f:\n"
    "    for v in list(f.f_locals.values()) + list(f.f_globals.values()):\n"
    "        if isinstance(v, dict) and 'output' in str(v)[:10000]: print(v)\n    f = f.f_back",
    "outputs are looked for by gc": "import gc\n[print(o) for o in gc.get_objects() if 'x1y2' in repr(o)[:500]]",
    "the parent's memory is searched": "import os\np = os.getppid()\n"
    "for line in open(f'/proc/{p}/maps'):\n    a, b = (int(v, 16) for v in line.split()[0].split('-'))\n"
    "    m = open(f'/proc/{p}/mem', 'rb', 0); m.seek(a); d = m.read(b - a)\n"
    "    if b'x1' + b'y2' in d: print('x1' + 'y2')",
    "the parent's memory is written": "import os\nopen(f'/proc/{os.getppid()}/mem', 'r+b', 0).write(b'x')",
    "files are searched": "import os\nfor d in ('/tmp', '/proc/self/fd', '/proc/1/fd'):\n"
    "    for n in os.listdir(d):\n        print(open(d + '/' + n, errors='replace').read(10**5))",
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAM_ATTACKS)
def test_expected_outputs_are_nowhere_to_be_found(sandbox, name):
    row = {"tests": [{"input": "1", "output": "x1y2"}, {"input": "2", "output": "x1y2"}]}
    response = Response(text=f"```python\n{PROGRAM_ATTACKS[name]}\n```", row=row)
    assert judge_code(response, sandbox=sandbox).reason == "wrong"


@pytest.mark.parametrize(
    "code",
    [
        # Several processes, each below its own limit.
        "import os, time\nfor i in range(8):\n    if os.fork() == 0:\n        x = bytearray(400 * 2**20)\n"
        "        for j in range(0, len(x), 4096): x[j] = 1\n        time.sleep(30)\ntime.sleep(30)",
        # Files cost the kernel memory that no size of a folder counts.
        "import time\nfor i in range(200_000):\n    open(f'/tmp/{i}', 'w').close()\ntime.sleep(30)",
    ],
)
def test_what_all_use_together_has_a_limit(sandbox, code):
    from dataclasses import replace

    from tabom.verify.sandbox.run import Sandbox

    slow = Sandbox(python=sandbox.python, limits=replace(sandbox.limits, timeout_s=20), num_slots=1)
    started = time.monotonic()
    outcome = slow.run(code, kind="asserts", tests=["pass"])
    assert outcome.state in ("failed", "ended"), outcome
    assert time.monotonic() - started < 15


def test_no_zombies_where_we_are_process_one(sandbox):
    """As in a container without an init: what bubblewrap leaves is ours to collect."""
    source = Path(__file__).parents[3] / "src"
    code = (
        "import os\n"
        "from tabom.verify.sandbox.run import Limits, Sandbox\n"
        f"s = Sandbox(python={sandbox.python!r}, limits=Limits(timeout_s=1), num_slots=1)\n"
        "for code in ('x = 1', 'while True: pass', 'import os; os.fork()', 'import os; os._exit(0)'):\n"
        "    s.run(code, kind='asserts', tests=['pass'])\n"
        "states = [open(f'/proc/{p}/stat').read().rsplit(')')[1].split()[0]\n"
        "          for p in os.listdir('/proc') if p.isdigit() and p != '1']\n"
        "print(os.getpid(), states)\n"
    )
    done = subprocess.run(
        ["unshare", "--fork", "--pid", "--mount-proc", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(source)},
        check=False,
    )
    if done.returncode != 0 and "unshare" in done.stderr:
        pytest.skip("no process namespace may be made here")
    assert done.stdout.strip() == "1 []", (done.stdout, done.stderr[-500:])


@pytest.mark.slow
def test_an_ordinary_user_stops_the_same_list(sandbox):
    if os.geteuid() != 0:
        pytest.skip("the tests above ran as an ordinary user already")
    from tabom.verify.sandbox.command import pythons

    source = Path(__file__).parents[3] / "src"
    tables = {**{k: v + "\n" + ("" if "def f" in v else WRONG_F) for k, v in WRONG.items()}, **OUT}
    code = (
        "import json, os, sys\n"
        "from tabom.verify.sandbox.run import Limits, Sandbox\n"
        "s = Sandbox(python=sys.executable, limits=Limits(timeout_s=2), num_slots=1)\n"
        "table = json.load(sys.stdin)\n"
        "found = {n: s.run(c, kind='asserts', tests=['assert f(1) == 2' if 'def f' in c else 'pass'],\n"
        "                  entry_point='f' if 'def f' in c else None).state for n, c in table.items()}\n"
        "print(json.dumps([os.getuid(), found]))\n"
    )
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", pythons()[0], "-c", code],
        input=json.dumps(tables),
        capture_output=True,
        text=True,
        cwd="/",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    if "Permission denied" in done.stderr or "No module named" in done.stderr:
        pytest.skip("the source or its packages are not readable by another user")
    assert done.returncode == 0, done.stderr
    uid, found = json.loads(done.stdout)
    assert uid == 65534
    assert {name for name, state in found.items() if state in ("passed", "not_started")} == set()
