"""Generators against the libraries that do the same: all three benchmarks, one after another.

    pip install trl                                   # which sft.py compares with
    python scripts/bench/generator.py                 # on this machine's CPU
    python scripts/bench/generator.py --processor     # on one that others use as well
    python scripts/bench/generator.py --device cuda

sft.py is a training step against TRL's SFTTrainer, fid.py one of fusion-in-decoder against padding
to the longest passage, generation.py answers to uneven prompts against transformers' generate. Each
prints its own verdict and has further options.
"""

import subprocess
import sys
from pathlib import Path

PARTS = ("sft.py", "fid.py", "generation.py")


def main() -> None:
    """Run the parts with the options given; fail where one does."""
    failed = []
    for part in PARTS:
        print(f"\n== {part}", flush=True)
        command = [sys.executable, str(Path(__file__).with_name(part)), *sys.argv[1:]]
        if subprocess.run(command).returncode:
            failed.append(part)
    print(f"\n{'FAIL: ' + ', '.join(failed) if failed else 'PASS: ' + ', '.join(PARTS)}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
