"""Does the sandbox hold on this machine? A few attacks, each of which must fail, before any use."""

import os
import secrets
import socket
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from tabom.core.errors import ConfigError
from tabom.verify.sandbox.command import INSTALL, missing_tools, pythons
from tabom.verify.sandbox.run import Limits, Outcome, Sandbox

# Each is a program that raises where the attack did not work; {…} are filled in per attack.
WRITE_HOST = "open({path!r}, 'w').write('x')"
READ_HOST = "assert {secret!r} in open({path!r}).read()"
WRITE_SYSTEM = """
import os
for folder in ('/usr', '/', '/dev', '/etc', os.path.expanduser('~')):
    try:
        open(os.path.join(folder, 'tabom-probe'), 'w').write('x')
        break
    except OSError:
        pass
else:
    raise OSError('none could be written')
"""
NETWORK = """
import socket
socket.create_connection(('127.0.0.1', {port}), timeout=2)
"""
# Counts what it got, so that a limit far above what was asked for is found too. Bounded.
FORKS = """
import os, signal, time
made = []
try:
    for _ in range({forks}):
        child = os.fork()
        if child == 0:
            time.sleep(20)
            os._exit(0)
        made.append(child)
except OSError:
    pass
for child in made:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
assert len(made) >= {forks}, len(made)
"""


def open_sandbox(
    *, limits: Limits, num_slots: int, python: str | None = None, is_unsafe: bool = False
) -> Sandbox:
    """A sandbox that has been tried, with the first interpreter that works in it.

    python: an interpreter to use instead of those that are found. is_unsafe: run programs
    without a sandbox; only ever where the user has asked for it in so many words.
    Raises: ConfigError with how to install it, or with the attack that was not blocked.
    """
    if is_unsafe:
        path = python or sys.executable
        return Sandbox(python=path, limits=limits, num_slots=num_slots, is_shut=False)
    unsafe = (
        "Or, only where every program may be trusted or this machine may be lost, run them "
        "unprotected: --unsafe_exec (in a recipe: verifier.args.unsafe_exec: true)."
    )
    missing = missing_tools()
    if missing is not None:
        raise ConfigError(f"no sandbox for code: {missing}; {INSTALL}. {unsafe}")
    problem = "no Python interpreter that a user without rights can reach; name one with python"
    for path in [str(Path(python).resolve())] if python is not None else pythons():
        sandbox = Sandbox(python=path, limits=limits, num_slots=num_slots)
        started = sandbox.run("x = 1", kind="asserts", tests=["assert x == 1"])
        if started.state != "passed":
            problem = f"{path} did not run in it ({started.detail})"
            continue
        leaks = probe(sandbox)
        if leaks:
            raise ConfigError(
                f"the sandbox for code does not hold on this machine: {', '.join(leaks)}. No "
                f"program was run. {unsafe}"
            )
        return sandbox
    raise ConfigError(
        f"the sandbox for code does not start on this machine: {problem}. User namespaces may be "
        f"off (sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces, "
        f"kernel.apparmor_restrict_unprivileged_userns). {unsafe}"
    )


def probe(sandbox: Sandbox) -> list[str]:
    """The attacks that the sandbox did not block, in words; empty if it holds."""
    quick = Sandbox(
        python=sandbox.python,
        limits=replace(sandbox.limits, timeout_s=min(5.0, sandbox.limits.timeout_s)),
        num_slots=2,
        is_shut=sandbox.is_shut,
    )

    def attack(code: str) -> Outcome:
        return quick.run(code, kind="asserts", tests=["pass"])

    with tempfile.TemporaryDirectory() as folder, socket.socket() as listener:
        os.chmod(folder, 0o777)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        secret, target = secrets.token_hex(8), Path(folder, "secret.txt")
        target.write_text(secret)
        target.chmod(0o666)
        forks = quick.limits.processes + 32
        codes = {
            "a file of the host was written": WRITE_HOST.format(path=str(Path(folder, "new"))),
            "a file of the host was read": READ_HOST.format(secret=secret, path=str(target)),
            "a system folder was written": WRITE_SYSTEM,
            "the network was reached": NETWORK.format(port=listener.getsockname()[1]),
            f"{forks} processes were started": FORKS.format(forks=forks),
            "a program that ends itself passed": "import os; os._exit(0)",
        }
        with ThreadPoolExecutor(2) as pool:
            outcomes = dict(zip(codes, pool.map(attack, codes.values()), strict=True))
        leaks = [what for what, outcome in outcomes.items() if outcome.state == "passed"]
        if Path(folder, "new").exists() or target.read_text() != secret:
            leaks.append("a file of the host was changed")
        odd = [f"{w}: {o.detail}" for w, o in outcomes.items() if o.state == "not_started"]
    return leaks + odd
