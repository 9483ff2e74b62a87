"""What the suite's own reader, rules and CUDA probe say of this machine's GPUs.

usage: python3 tests/hardware/gpu.py [FOLDER]    needs nvidia-smi, and Python 3.11 alone; keeps the XML in FOLDER
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT))

from fixtures.gpu import nvidia_smi  # noqa: E402
from fixtures.gpu.gpu import State  # noqa: E402


def main() -> None:
    """Print the report, each value that is not known, and what the probe found on each GPU."""
    asked = subprocess.run(nvidia_smi.COMMAND, capture_output=True, text=True, check=False, timeout=60)
    if sys.argv[1:]:
        Path(sys.argv[1], "nvidia-smi-q.xml").write_text(asked.stdout)
    report = nvidia_smi.read(asked.stdout, asked.returncode, asked.stderr)
    print(f"driver {report.driver}, CUDA {report.cuda or 'unknown'}, notes {list(report.notes)}")
    for card in report.gpus:
        unknown = {name: text for name in card.values if (text := card.value(name)).state is not State.KNOWN}
        print(card, f"brand {card.brand!r}, {card.value('memory.total').whole} MiB, not known: {unknown}", sep="\n  ")
        try:
            from fixtures.gpu import health  # noqa: PLC0415
        except ImportError as error:  # the rules stand on the suite's own packages
            print(f"  rules: not tried: {error}")
        else:
            print(f"  at rest: {health.judge(card.values, loaded=False)}")
        probe = [sys.executable, str(CHECKOUT / "fixtures/remote/cuda_probe.py"), str(card.index), "256"]
        found = subprocess.run(probe, capture_output=True, text=True, check=False, timeout=60)
        print(f"  probe: {found.stdout.strip() or found.stderr.strip()[-300:]}")


if __name__ == "__main__":
    main()
