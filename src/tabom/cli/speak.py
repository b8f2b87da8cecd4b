"""What `generate` and `chat` share: flags of model and decoding, and one decoded response."""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from tabom.cli import flags
from tabom.cli.live import FAINT, Screen, Slot, canvas_slots
from tabom.core import configs, keys
from tabom.core.text import duration, safe
from tabom.decoding.config import DecodingConfig
from tabom.models.config import ModelConfig

if TYPE_CHECKING:
    from tabom.decoding.requests import DecodeRequest, StepView
    from tabom.models.contract import MaskedDiffusionModel
    from tabom.trajectory.record import Trajectory

Messages = list[dict[str, str]]


def add_model(parser: argparse.ArgumentParser) -> None:
    """MODEL, and how it is loaded."""
    name = "model_name_or_path"
    parser.add_argument(f"model.{name}", metavar="MODEL", help="a folder, a hub id, or toy-base")
    flags.add_section(parser, ModelConfig, "model", skip=(name,))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, how it is loaded, how it decodes, and the key of its draws."""
    add_model(parser)
    parser.add_argument("--seed", type=int, default=0, help="key of all draws (default: 0)")
    flags.add_section(parser, DecodingConfig, "decoding")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Who speaks, and how."""

    model: ModelConfig
    """The model that responds."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """How it decodes."""

    def changed(self, overrides: Sequence[configs.Override]) -> "Settings":
        """The same with "decoding.key=value" on top."""
        return configs.build(Settings, configs.apply_overrides(configs.to_plain(self), overrides))


class Speaker:
    """A model that shows its responses while it decodes them."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Load the model that the flags name. stdout shows its responses."""
        self.settings, self.seed = flags.build(Settings, args), args.seed
        self.model: MaskedDiffusionModel = self.settings.model.load()
        self.screen = Screen(sys.stdout)
        self._fixed: dict[int, int] = {}

    def give(self, answer: str) -> None:
        """Take the answer as given but for its gaps; see `decoding.infill`."""
        from tabom.decoding.infill import fixed_slots

        decoding = self.settings.decoding
        given, needed = fixed_slots(self.model, answer, max_new_tokens=decoding.max_new_tokens)
        if decoding.block_length is None:  # no call need look at the filler behind the end
            decoding = replace(decoding, max_new_tokens=needed)
            self.settings = replace(self.settings, decoding=decoding)
        num_slots = decoding.max_new_tokens
        self._fixed = {slot: token for slot, token in given.items() if slot < num_slots}

    def request(self, prompt: str | Messages, name: str) -> "DecodeRequest":
        """A request whose draws are keyed by its name and tokens."""
        from tabom.decoding.requests import DecodeRequest

        # A prompt that is asked twice draws the same tokens, whatever was asked in between.
        ids = self.model.encode_prompt(prompt)
        key = keys.content_id(name, ",".join(map(str, ids)))
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        return DecodeRequest(id=key, prompt_ids=ids, prompt=text, fixed=self._fixed)

    def speak(self, request: "DecodeRequest") -> "Trajectory":
        """Decode one response; on a terminal it is shown as it comes, then left as coloured text.

        Elsewhere its text is written once, when it is finished.
        """
        from tabom.decoding.decoder import Decoder

        screen, shown, started = self.screen, list[Slot](), time.perf_counter()

        def on_step(view: "StepView") -> None:
            shown[:] = canvas_slots(view, model=self.model, glyphs=screen.glyphs)
            num_slots = view.open_BN.shape[1]
            done = num_slots - int(view.open_BN[0].sum())
            screen.draw(shown, f"step {view.step + 1}: {done} of {num_slots} slots")

        # Watching costs a copy of the canvas at each step, so nobody watches behind a pipe.
        decoder = Decoder(self.model, self.settings.decoding, seed=self.seed)
        try:
            (decoded,) = decoder.decode([request], on_step=on_step if screen.is_live else None)
        finally:
            screen.clear()
        trajectory = decoded.trajectory
        if not screen.is_live:
            screen.write(safe(trajectory.response) + "\n")
            return trajectory
        # What stays on the screen is the response alone, without the slots behind its end.
        ids = trajectory.response_ids_N.tolist()
        end = next((n for n, i in enumerate(ids) if i in self.model.ids.eos), len(ids))
        special = set(self.model.tokenizer.all_special_ids)  # left out of the response's text too
        kept = [slot for i, slot in zip(ids[:end], shown, strict=False) if i not in special]
        screen.say(Text.assemble(*((text, style + Style(underline=False)) for text, style in kept)))
        took = f"{trajectory.num_forwards} forwards, {duration(time.perf_counter() - started)}"
        screen.say(Text(f"{end} slots before the end, {took}", style=FAINT))
        return trajectory
