"""The printed job script on a Slurm of this machine."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tabom.core.manifest import read_manifest
from tabom.trajectory.store import TrajectoryStore

CONF = """
ClusterName=box
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
AuthInfo=cred_expire=5
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=32
PartitionName=all Nodes=ALL Default=YES State=UP
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands find a cluster of this one machine."""
    lacking = [name for name in ("slurmctld", "slurmd", "sbatch", "srun") if not shutil.which(name)]
    if lacking or os.getuid():
        pytest.skip(f"needs root and Slurm (Debian: slurm-wlm); lacking: {', '.join(lacking)}")
    folder, ports = tmp_path / "slurm", []
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=socket.gethostname(), folder=folder, ports=ports))
    bin = Path(sys.executable).parent
    env = {**os.environ, "SLURM_CONF": str(conf), "PATH": f"{bin}:{os.environ['PATH']}"}
    with (folder / "log").open("w") as log:
        daemons = []
        for name in ("slurmctld", "slurmd"):
            command = [shutil.which(name) or name, "-D"]
            daemons.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
            time.sleep(1)
        try:
            wait_for(lambda: "idle" in said(env, "sinfo", "-h"), "a node", log=folder / "log")
            yield env
        finally:
            for daemon in reversed(daemons):
                daemon.terminate()
                daemon.wait()


def said(env: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def wait_for(is_so: object, what: str, *, log: Path, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < end, f"no {what}: {log.read_text() if log.exists() else ''}"
        time.sleep(0.1)


@pytest.mark.slow
def test_an_array_collects_one_task_is_cancelled_and_one_requeued(
    tiny_recipe: Path, tmp_path: Path, cluster: dict[str, str]
) -> None:
    one, out = tmp_path / "one", tmp_path / "out"
    command = [
        sys.executable, "-m", "tabom", "collect", "--config", str(tiny_recipe), "--quiet",
        "--set", "prompts.args.num=400", "--set", "collection.batch_size=1",
    ]  # fmt: skip
    subprocess.run([*command, "--output_dir", str(one)], check=True, capture_output=True)
    script = subprocess.run(
        [*command, "--output_dir", str(out), "--launcher", "slurm", "--chunk_workers", "2",
         "--chunk_size", "5", "--gpus_per_worker", "0"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    job = tmp_path / "collect.sh"
    job.write_text(script)
    (number,) = said(cluster, "sbatch", "--parsable", f"--chdir={tmp_path}", str(job)).split()
    log = tmp_path / f"slurm-{number}_0.out"
    wait_for(lambda: len(list(out.glob("data/*"))) > 4, "data", log=log)
    said(cluster, "scancel", f"{number}_1")
    wait_for(lambda: len(list(out.glob("data/*"))) > 12, "data", log=log)
    assert not (out / "manifest.json").is_file()
    requeued = said(cluster, "scontrol", "requeue", f"{number}_0")
    assert requeued == ""
    wait_for(lambda: (out / "manifest.json").is_file(), "manifest", log=log)
    wait_for(lambda: said(cluster, "squeue", "-h") == "", "end of the job", log=log)
    assert "Restarts=1" in said(cluster, "scontrol", "show", "job", f"{number}_0")
    manifest = read_manifest(out)
    assert manifest is not None
    assert (manifest.counts["num_trajectories"], manifest.counts["num_failed"]) == (400, 0)
    rows = [
        sorted((t.id, t.response_ids_N.tolist(), t.step_N.tolist()) for t in TrajectoryStore(root))
        for root in (one, out)
    ]
    assert rows[0] == rows[1]
