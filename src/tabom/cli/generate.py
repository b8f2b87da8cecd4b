"""`tabom generate MODEL --prompt TEXT`: decode prompts and print the responses."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabom.cli import flags, speak

if TYPE_CHECKING:
    from tabom.collect.prompts import Prompt
    from tabom.trajectory.record import Trajectory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom generate`."""
    speak.add_model_arguments(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", metavar="TEXT", help="one user message")
    source.add_argument(
        "--prompts", metavar="FILE", help=".jsonl, .json, .parquet or .csv; .txt: one a line"
    )
    parser.add_argument("--batch_size", type=int, default=8, help="decoded together (default: 8)")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a response, one response a line"
    )
    speak.add_decoding_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Decode and print, in the order of the prompts."""
    from tabom.cli.live import Screen
    from tabom.decoding.decoder import Decoder

    decoding = speak.decoding_of(flags.overrides_of(args))
    prompts = _prompts(args)
    model = speak.open_model(args)
    requests = [speak.request_of(model, p.prompt, p.id) for p in prompts]
    screen = Screen.of(sys.stdout)
    if len(requests) == 1 and not args.json:
        speak.speak(model, requests[0], decoding, seed=args.seed, screen=screen)
        return 0
    decoder = Decoder(model, decoding, seed=args.seed, batch_size=args.batch_size)
    for prompt, item in zip(prompts, decoder.in_order(requests), strict=True):
        if args.json:
            _print_json(prompt, item.trajectory)
        else:
            _print_text(screen, prompt, item.trajectory)
    return 0


def _prompts(args: argparse.Namespace) -> list["Prompt"]:
    from tabom.collect.prompts import Prompt, PromptSource, load_prompts
    from tabom.core.errors import DataError

    if args.prompt is not None:
        if not args.prompt.strip():
            raise DataError("--prompt is empty; give it some text")
        return [Prompt(id="prompt", prompt=args.prompt)]
    if not args.prompts.endswith(".txt"):
        return load_prompts(PromptSource(path=args.prompts), seed=args.seed)
    try:
        text = Path(args.prompts).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--prompts {args.prompts}: cannot be read as text ({error})") from error
    found = [
        Prompt(id=f"line-{number}", prompt=line)
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    ]
    if not found:
        raise DataError(f"--prompts {args.prompts}: no line has a prompt")
    return found


def _print_json(prompt: "Prompt", trajectory: "Trajectory") -> None:
    import json

    from tabom.core.plain import to_plain

    # NaN, at slots that were never revealed, becomes null.
    row: dict[str, Any] = {
        "id": prompt.id,
        "prompt": prompt.prompt,
        "response": trajectory.response,
        "token_ids": trajectory.response_ids_N,
        "step": trajectory.step_N,
        "entropy": trajectory.entropy_N,
        "confidence": trajectory.confidence_N,
        "num_forwards": trajectory.num_forwards,
    }
    print(json.dumps(to_plain(row)), flush=True)


def _print_text(screen: Any, prompt: "Prompt", trajectory: "Trajectory") -> None:
    from tabom.cli.layout import safe

    first = safe(" ".join(prompt.text.split()))
    screen.write(f"[{prompt.id}] {first}\n{safe(trajectory.response)}\n\n")
