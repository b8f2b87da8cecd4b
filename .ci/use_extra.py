"""Do with one extra what it is for: `python .ci/use_extra.py NAME`."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


def use_eval() -> None:
    """A task of lm-eval is found by its name, and the model stands behind its interface."""
    from lm_eval.tasks import TaskManager

    from tabom.evaluation.harness.model import TabomLM

    assert TaskManager().match_tasks(["gsm8k"]) == ["gsm8k"]
    assert TabomLM.generate_until is not None


def use_math() -> None:
    """math-verify knows an equality that our own rules leave to it."""
    from tabom import judge

    assert judge("$\\frac{\\sqrt{8}}{2}$", reference="\\sqrt{2}", kind="math").reason == "accepted"


def use_track() -> None:
    """transformers finds TensorBoard and writes a log."""
    from torch.utils.tensorboard import SummaryWriter

    from tabom import TrainingConfig

    TrainingConfig(report_to="tensorboard").training_arguments("x", has_eval=False, use_cpu=True)
    with tempfile.TemporaryDirectory() as folder:
        writer = SummaryWriter(folder)
        writer.add_scalar("loss", 1.0, 1)
        writer.close()
        assert any(Path(folder).iterdir())


def use_ray() -> None:
    """Two prompts are collected by an actor."""
    from tabom.cli.main import main

    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            "collect", "--model_name_or_path", "toy-base", "--max_new_tokens", "8",
            "--prompts_function", "tabom.toyworld.tasks:prompts",
            "--prompts_args", "{task: sort, split: train, num: 2}",
            "--launcher", "ray", "--chunk_workers", "1", "--output_dir", f"{folder}/collect",
        ]  # fmt: skip
        assert main(arguments) == 0


def use_s3() -> None:
    """What opens an S3 URL is there; no bucket is asked."""
    _opens("s3://bucket/run")


def use_gcs() -> None:
    """What opens a URL of Google's storage is there; no bucket is asked."""
    _opens("gs://bucket/run")


def _opens(url: str) -> None:
    import fsspec
    from upath import UPath

    fsspec.get_filesystem_class(url.partition(":")[0])
    assert str(UPath(url) / "x") == f"{url}/x"


def use_figures() -> None:
    """A drawing becomes a PDF."""
    from tabom.report.export import _write_pdf

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.pdf"
        line = '<path d="M0 0L9 9" stroke="#000"/>'
        drawing = f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">{line}</svg>'
        _write_pdf(drawing, path)
        assert path.read_bytes().startswith(b"%PDF")


def use_quantization() -> None:
    """The layers of a small model are kept in four bits."""
    from tabom.models.config import ModelConfig
    from tabom.models.quantization import is_quantized
    from tabom.models.random_checkpoint import write_random_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        name = write_random_checkpoint(
            Path(folder) / "m", family="dream", vocab_size=64, hidden_size=64, intermediate_size=128
        )
        config = ModelConfig(model_name_or_path=str(name), device="cpu", quantization="nf4")
        assert is_quantized(config.load(require_tokenizer=False).lm)


if __name__ == "__main__":
    use: Callable[[], None] = globals()[f"use_{sys.argv[1]}"]
    use()
