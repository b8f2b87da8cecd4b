"""Stack frames of our own between `main` and the call of the model's backbone, for two verbs.

    python benchmarks/frames.py [--require 9]

Runs `tabom collect` and `tabom evaluate` on the embedded model in this process and looks at the
stack when decoding first calls a module. Generators count as frames; frames of other packages do
not. Each frame is one hand-over that a reader has to follow: the fewer there are, the nearer a
command is to what it computes.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import tabom
from tabom.cli.main import main as tabom_main

OWN = Path(tabom.__file__).parent
PROMPTS = ["--prompts_function", "tabom.toyworld.tasks:prompts"]
ROWS = ["--prompts_args", "{task: sort, split: eval, num: 2}", "--max_new_tokens", "16"]
VERBS = {
    "collect": ["collect", *PROMPTS, *ROWS],
    "evaluate": ["evaluate", *PROMPTS, *ROWS],
}


class SeenError(Exception):
    """Ends a run at the first call of the model."""


def frames_of(arguments: Sequence[str]) -> list[str]:
    """Our own frames from `main` to the caller of the backbone, outermost first."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    found: list[str] = []

    def look(*_: object) -> None:
        stack = _stack(sys._getframe(1))
        # The probes of a model that is loaded call it too; what counts is decoding.
        if any(name.startswith("decoding/") for name in stack):
            found.extend(stack)
            raise SeenError

    with tempfile.TemporaryDirectory() as folder:
        common = ["--model_name_or_path", "toy-base", "--quiet", "--output_dir", f"{folder}/out"]
        hook = register_module_forward_pre_hook(look)
        try:
            tabom_main([*arguments, *common])
        except SeenError:
            pass
        finally:
            hook.remove()
    return found


def _stack(frame: FrameType | None) -> list[str]:
    names = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(OWN):
            place = path.relative_to(OWN)
            name = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)  # Python 3.11
            names.append(f"{place}:{frame.f_lineno} {name}")
        frame = frame.f_back
    return names[::-1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--require", type=int, help="fail if a verb takes more frames than this")
    args = parser.parse_args()
    worst = 0
    for verb, arguments in VERBS.items():
        found = frames_of(arguments)
        worst = max(worst, len(found))
        before = next((i for i, name in enumerate(found) if "Decoder.decode" in name), len(found))
        print(f"{verb}: {len(found)} frames, {before} before Decoder.decode")
        print("".join(f"  {name}\n" for name in found))
    if args.require is not None and worst > args.require:
        sys.exit(f"{worst} frames; at most {args.require} are allowed")


if __name__ == "__main__":
    main()
