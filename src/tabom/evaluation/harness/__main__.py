"""lm-eval's own command line with our model and benchmarks: `python -m tabom.evaluation.harness`.

Everything behind it is lm-eval's, such as `run --model tabom --tasks gsm8k_tabom ...`.
"""

import sys

from lm_eval.__main__ import cli_evaluate

from tabom.core.errors import TabomError
from tabom.evaluation.harness import folder


def main() -> int:
    """Run lm-eval's command line. Exit status 2 for what is the user's to mend."""
    if "--include_path" not in sys.argv and "run" in sys.argv[1:2]:
        sys.argv += ["--include_path", str(folder())]
    try:
        cli_evaluate()
    except TabomError as error:
        print(f"lm-eval with tabom: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
