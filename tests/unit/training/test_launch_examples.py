"""What starts a training on many GPUs (configurations, a script), as its own tools read it."""

import re
import shlex
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

CONFIGURATIONS = {p.name.removesuffix(".yaml"): p for p in files("tabom").joinpath(
    "recipes", "accelerate").iterdir()}  # fmt: skip
DOCS = Path(__file__).resolve().parents[3] / "docs/scale.md"


def launched(name: str) -> Any:
    """The arguments of `accelerate launch`, with what the file says; unknown keys are refused."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    given = ["--config_file", str(CONFIGURATIONS[name]), "-m", "tabom", "train"]
    parser = launch_command_parser()
    args, defaults, _ = _validate_launch_command(parser.parse_args(given))
    assert defaults is not None
    known = {action.dest for action in parser._actions}
    assert {*(defaults.fsdp_config or {}), *(defaults.deepspeed_config or {})} <= known
    return args


@pytest.mark.parametrize("name", sorted(CONFIGURATIONS))
def test_accelerate_knows_every_key(name: str) -> None:
    args = launched(name)
    assert (args.module, args.training_script) == (True, "tabom")
    kinds = {"ddp": "multi_gpu", "fsdp2": "use_fsdp", "zero2": "use_deepspeed"}
    kinds["zero3"] = kinds["zero2"]
    for kind in {*kinds.values()}:
        assert bool(getattr(args, kind)) == (kinds.get(name) == kind), kind


def test_fsdp_is_what_the_file_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.launch import prepare_multi_gpu_env

    for key, value in prepare_multi_gpu_env(launched("fsdp2")).items():
        monkeypatch.setenv(key, value)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type.name == "SHARDED_STATE_DICT"
    assert plugin.cpu_ram_efficient_loading is False


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_has_its_stage(stage: int) -> None:
    args = launched(f"zero{stage}")
    assert int(args.zero_stage) == stage
    assert (args.gradient_clipping, args.gradient_accumulation_steps) == ("auto", "auto")


def test_the_script_for_two_nodes_is_one_that_torchrun_reads(tmp_path: Path) -> None:
    from torch.distributed.run import get_args_parser

    (script,) = [s for s in re.findall(r"```bash\n(.*?)```", DOCS.read_text(), re.S) if "srun" in s]
    (tmp_path / "train.sh").write_text(script)
    subprocess.run(["bash", "-n", tmp_path / "train.sh"], check=True)
    command = shlex.split(script.replace("\\\n", " ").partition("srun torchrun")[2])
    found = get_args_parser().parse_args(command)
    assert (found.nnodes, found.nproc_per_node, found.training_script) == ("2", "8", "tabom")
    assert found.module
    assert "--trajectories" in found.training_script_args
