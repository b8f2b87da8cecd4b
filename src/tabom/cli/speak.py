"""What `generate` and `chat` share: flags of model and decoding, and one decoded response."""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tabom.cli import flags
from tabom.core import configs
from tabom.decoding.config import DecodingConfig
from tabom.models.config import ModelConfig

if TYPE_CHECKING:
    from tabom.cli.live import Screen, Slot
    from tabom.decoding.requests import DecodeRequest, StepView
    from tabom.models.contract import MaskedDiffusionModel
    from tabom.trajectory.record import Trajectory

Messages = list[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Who speaks, and how."""

    model: ModelConfig
    """The model that responds."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """How it decodes."""

    def changed(self, overrides: Sequence[configs.Override]) -> "Settings":
        """The same model with other decoding settings on top."""
        mapping = {"decoding": configs.to_plain(self.decoding)}
        decoding = configs.apply_overrides(mapping, overrides)["decoding"]
        return replace(self, decoding=configs.build(DecodingConfig, decoding, where="decoding"))


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


def settings_of(args: argparse.Namespace) -> Settings:
    """What the flags say."""
    return configs.build(Settings, configs.apply_overrides({}, flags.overrides_of(args)))


def request_of(model: "MaskedDiffusionModel", prompt: str | Messages, name: str) -> "DecodeRequest":
    """A request whose draws are keyed by its name and tokens."""
    from tabom.core import keys
    from tabom.decoding.requests import DecodeRequest

    ids = model.encode_prompt(prompt)
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    key = keys.content_id(name, ",".join(map(str, ids)))
    return DecodeRequest(id=key, prompt_ids=ids, prompt=text)


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """A model that shows its responses while it decodes them."""

    model: "MaskedDiffusionModel"
    screen: "Screen"
    seed: int

    def speak(self, request: "DecodeRequest", decoding: DecodingConfig) -> "Trajectory":
        """Decode one response; on a terminal it is shown as it comes, then left as coloured text.

        Elsewhere its text is written once, when it is finished.
        """
        from tabom.cli.live import TokenTexts, canvas_slots
        from tabom.core.text import duration, safe
        from tabom.decoding.decoder import Decoder

        model, screen = self.model, self.screen
        texts = TokenTexts(tokenizer=model.tokenizer)
        shown: list[Slot] = []
        started = time.perf_counter()

        def on_step(view: "StepView") -> None:
            shown[:] = canvas_slots(view, 0, model=model, texts=texts, glyphs=screen.glyphs)
            num_slots = view.open_BN.shape[1]
            done = num_slots - int(view.open_BN[0].sum())
            screen.draw(shown, f"step {view.step + 1}: {done} of {num_slots} slots")

        decoder = Decoder(model, decoding, seed=self.seed)
        try:
            (decoded,) = decoder.decode([request], on_step=on_step if screen.is_live else None)
        finally:
            screen.clear()
        trajectory = decoded.trajectory
        if not screen.is_live:
            screen.write(safe(trajectory.response) + "\n")
            return trajectory
        left = self._until_end(shown, trajectory)
        seconds = duration(time.perf_counter() - started)
        forwards = f"{trajectory.num_forwards} forwards"
        screen.leave(left, f"{len(left)} slots before the end, {forwards}, {seconds}")
        return trajectory

    def _until_end(self, shown: Sequence["Slot"], trajectory: "Trajectory") -> list["Slot"]:
        from rich.style import Style

        ids = trajectory.response_ids_N.tolist()
        end = next((n for n, i in enumerate(ids) if i in self.model.ids.eos), len(ids))
        special = set(self.model.tokenizer.all_special_ids)  # left out of the response's text too
        return [
            ("" if ids[n] in special else text, style + Style(underline=False))
            for n, (text, style) in enumerate(shown[:end])
        ]
