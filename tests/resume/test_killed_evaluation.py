"""An evaluation on tasks that is killed: the same command goes on, and ends as if nothing was."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tabom.cli.main import main
from tabom.evaluation.records import read_records


@pytest.mark.slow
def test_evaluate_goes_on_after_kill(random_toy: Path, tmp_path: Path) -> None:
    # The toy tokenizer knows letters from a to j.
    rows = [{"question": "abcdefghij"[i % 10 :] * (1 + i // 10), "answer": "#### 1"}
            for i in range(40)]  # fmt: skip
    (tmp_path / "gsm8k.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    task = "\n".join(
        [
            "task: letters",
            "include: " + str(_own("gsm8k_tabom.yaml")),
            'doc_to_text: "{{question}}"',
        ]
    )
    (tmp_path / "letters.yaml").write_text(task + "\n")
    command = [
        sys.executable, "-m", "tabom", "evaluate", "--model_name_or_path", str(random_toy),
        "--tasks", "letters", "--include_path", str(tmp_path), "--data_dir", str(tmp_path),
        "--max_new_tokens", "40", "--batch_size", "1", "--no_chat_template", "--quiet",
    ]  # fmt: skip
    responses = tmp_path / "killed" / "responses.jsonl"
    process = subprocess.Popen([*command, "--output_dir", str(tmp_path / "killed")])
    deadline = time.monotonic() + 120
    while not responses.is_file() or responses.read_bytes().count(b"\n") < 2:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = responses.read_bytes()
    assert 2 <= before.count(b"\n") < 40
    for name in ("killed", "whole"):
        assert main([*command[3:], "--output_dir", str(tmp_path / name)]) == 0
    assert responses.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
    assert responses.read_bytes().count(b"\n") == 40
    killed, whole = (read_records(tmp_path / n / "records.parquet") for n in ("killed", "whole"))
    assert killed == whole


def _own(name: str) -> Path:
    from tabom.evaluation.tasks import folder

    return folder() / name
