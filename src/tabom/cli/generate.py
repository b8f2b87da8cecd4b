"""`tabom generate MODEL --prompt TEXT`: decode prompts and print the responses."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from tabom.cli import speak
from tabom.core.errors import DataError
from tabom.core.plain import to_plain
from tabom.core.text import safe

if TYPE_CHECKING:
    from tabom.collect.prompts import Prompt
    from tabom.trajectory.record import Trajectory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom generate`."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", metavar="TEXT", help="one user message; - reads it from stdin")
    source.add_argument("--prompts", metavar="FILE", help="rows of prompts; .txt: one a line")
    parser.add_argument(
        "--infill",
        metavar="TEXT",
        help="the answer, with <mask:8> where 8 tokens are to be decoded (<mask> at the end: all)",
    )
    parser.add_argument("--batch_size", type=int, default=8, help="decoded together (default: 8)")
    parser.add_argument("--json", action="store_true", help="one JSON object a response and line")
    speak.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Decode and print, in the order of the prompts."""
    from tabom.decoding.decoder import Decoder

    # Prompts are read before the model is loaded, which may take minutes.
    prompts = _prompts(args)
    speaker = speak.Speaker(args)
    if args.infill is not None:
        speaker.give(args.infill)
    requests = [speaker.request(prompt.prompt, prompt.id) for prompt in prompts]
    if len(requests) == 1 and not args.json:
        speaker.speak(requests[0])
        return 0
    # Several responses are decoded together, and nothing is drawn while they are.
    decoding = speaker.settings.decoding
    decoder = Decoder(speaker.model, decoding, seed=args.seed, batch_size=args.batch_size)
    for prompt, item in zip(prompts, decoder.in_order(requests), strict=True):
        text = f"[{prompt.id}] {' '.join(prompt.text.split())}\n{item.trajectory.response}\n"
        speaker.screen.write((_json(prompt, item.trajectory) if args.json else safe(text)) + "\n")
    return 0


def _prompts(args: argparse.Namespace) -> list["Prompt"]:
    """The prompts of the file, or the one that the command line or stdin says.

    Raises: DataError for an empty one.
    """
    from tabom.collect.prompts import Prompt, PromptSource, load_prompts

    if args.prompt is None:
        return load_prompts(PromptSource(path=args.prompts), seed=args.seed)
    text = sys.stdin.read().strip("\n") if args.prompt == "-" else args.prompt
    if not text.strip():
        raise DataError("--prompt is empty; give it some text")
    return [Prompt(id="prompt", prompt=text)]


def _json(prompt: "Prompt", trajectory: "Trajectory") -> str:
    """A response as one line of JSON: its text, and for each slot the token, when it was revealed,
    how sure the model was.
    """
    row = {
        "id": prompt.id,
        "prompt": prompt.prompt,
        "response": trajectory.response,
        "token_ids": trajectory.response_ids_N,
        "step": trajectory.step_N,
        "entropy": trajectory.entropy_N,
        "confidence": trajectory.confidence_N,
        "num_forwards": trajectory.num_forwards,
    }
    return json.dumps(to_plain(row))  # NaN, at slots that were never revealed, becomes null
