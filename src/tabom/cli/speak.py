"""What `generate` and `chat` share: flags of model and decoding, and one decoded response."""

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tabom.cli import flags

if TYPE_CHECKING:
    from tabom.cli.live import Screen, Slot
    from tabom.core.configs import Override
    from tabom.decoding.config import DecodingConfig
    from tabom.decoding.requests import DecodeRequest, StepView
    from tabom.models.contract import MaskedDiffusionModel
    from tabom.trajectory.record import Trajectory

Messages = list[dict[str, str]]


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and how it is loaded."""
    parser.add_argument("model", help="a folder, a hub id, or toy-base")
    parser.add_argument(
        "--adapter", metavar="DIR", help="a LoRA adapter, such as `tabom train` left"
    )
    parser.add_argument("--dtype", default="auto", help="auto (default), bfloat16, float32, ...")
    parser.add_argument("--device", help="cuda, cpu, ...; found if left out")
    parser.add_argument(
        "--attn_implementation",
        default="sdpa",
        help="sdpa (default), eager or flash_attention_2",
    )
    parser.add_argument("--mask_token_id", type=int, help="overrides the checkpoint's")


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    """The decoding's flags, and the key of its draws."""
    from tabom.decoding.config import DecodingConfig

    flags.add_section(parser, DecodingConfig, "decoding")
    parser.add_argument("--seed", type=int, default=0, help="key of all draws (default: 0)")


def open_model(args: argparse.Namespace, **options: Any) -> "MaskedDiffusionModel":
    """Load the model that the flags name."""
    from tabom.models.loading import load_model

    return load_model(
        args.model,
        adapter=args.adapter,
        dtype=args.dtype,
        device=args.device,
        attn_implementation=args.attn_implementation,
        mask_token_id=args.mask_token_id,
        **options,
    )


def decoding_of(
    overrides: "Sequence[Override]", base: "DecodingConfig | None" = None
) -> "DecodingConfig":
    """Decoding settings with "decoding.key=value" overrides on top."""
    from tabom.core import configs
    from tabom.decoding.config import DecodingConfig

    start = {} if base is None else configs.to_plain(base)
    mapping = configs.apply_overrides({"decoding": start}, overrides)
    return configs.build(DecodingConfig, mapping["decoding"], where="decoding")


def request_of(model: "MaskedDiffusionModel", prompt: str | Messages, name: str) -> "DecodeRequest":
    """A request whose draws are keyed by its name and tokens."""
    from tabom.core import keys
    from tabom.decoding.requests import DecodeRequest

    ids = model.encode_prompt(prompt)
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    key = keys.content_id(name, ",".join(map(str, ids)))
    return DecodeRequest(id=key, prompt_ids=ids, prompt=text)


def speak(
    model: "MaskedDiffusionModel",
    request: "DecodeRequest",
    decoding: "DecodingConfig",
    *,
    seed: int,
    screen: "Screen",
) -> "Trajectory":
    """Decode one response; on a terminal it is shown as it comes, then left as coloured text.

    Elsewhere its text is written once, when it is finished.
    """
    from tabom.cli.layout import safe
    from tabom.cli.live import TokenTexts, canvas_slots
    from tabom.decoding.decoder import Decoder

    texts = TokenTexts(tokenizer=model.tokenizer)
    shown: list[Slot] = []
    started = time.perf_counter()

    def on_step(view: "StepView") -> None:
        shown[:] = canvas_slots(view, 0, model=model, texts=texts, glyphs=screen.glyphs)
        num_open = int(view.open_BN[0].sum())
        done = view.open_BN.shape[1] - num_open
        screen.draw(shown, f"step {view.step + 1}: {done} of {done + num_open} slots")

    try:
        decoder = Decoder(model, decoding, seed=seed)
        (decoded,) = decoder.decode([request], on_step=on_step if screen.is_live else None)
    finally:
        screen.clear()
    trajectory = decoded.trajectory
    if not screen.is_live:
        screen.write(safe(trajectory.response) + "\n")
        return trajectory
    _leave(screen, _until_end(shown, trajectory, model), trajectory, time.perf_counter() - started)
    return trajectory


def _until_end(
    shown: Sequence["Slot"], trajectory: "Trajectory", model: "MaskedDiffusionModel"
) -> list["Slot"]:
    from tabom.cli.live import Slot

    ids = trajectory.response_ids_N.tolist()
    end = next((n for n, i in enumerate(ids) if i in model.ids.eos), len(ids))
    special = set(model.tokenizer.all_special_ids)  # left out of the response's text as well
    return [
        Slot(text="" if ids[n] in special else slot.text, code=slot.code.removeprefix("4;"))
        for n, slot in enumerate(shown[:end])
    ]


def _leave(
    screen: "Screen", slots: Sequence["Slot"], trajectory: "Trajectory", seconds: float
) -> None:
    from tabom.cli.live import FAINT, Slot, wrap

    width, _ = screen.size
    lines = wrap(slots, width=width, is_coloured=screen.is_coloured)
    note = f"{len(slots)} slots before the end, {trajectory.num_forwards} forwards, {seconds:.1f} s"
    lines += wrap([Slot(text=note, code=FAINT)], width=width, is_coloured=screen.is_coloured)
    screen.write("\n".join(lines) + "\n")
