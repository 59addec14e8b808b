"""A newer processor made to behave like the ones that most laptops have: AVX2, no AVX-512, no AMX.

    python -m tests.avx2 [--if-there-is-more] COMMAND ...      runs a command so

Where the system can hide what the processor has (`hide.c`: Linux on x86-64 with a C compiler, and a processor whose
CPUID can be made to fault), every library sees an older processor. Elsewhere the libraries' own switches are set, by
which oneDNN (torch's and, for convolutions and products, OpenVINO's), ATen and MKL are held; what else OpenVINO and
ONNX Runtime have compiled for AVX-512 they go on using.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SWITCHES = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def beyond() -> bool:
    """True when this processor has more than AVX2 to hide."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return any(value is True and name.startswith(("avx512", "amx", "avx10")) for name, value in capabilities.items())


def held(folder: Path) -> tuple[dict[str, str], str]:
    """(environment variables for a process held to AVX2, by what it is held). folder: where the library is built."""
    library = folder / "hide.so"
    # torch's compiler keeps what it compiled by what was asked of it, not by processor.
    variables = {**SWITCHES, "TORCHINDUCTOR_CACHE_DIR": str(folder / "torchinductor")}
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform == "linux" and platform.machine() == "x86_64" and compiler is not None:
        source = Path(__file__).with_name("hide.c")
        command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
        built = subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0
        if built:
            preload = {"LD_PRELOAD": os.pathsep.join(filter(None, (str(library), os.environ.get("LD_PRELOAD"))))}
            probe = subprocess.run(["true"], env={**os.environ, **preload}, stderr=subprocess.DEVNULL, check=False)
            if probe.returncode == 0:
                return {**variables, **preload}, "every library: CPUID hides what the processor has beyond AVX2"
    return variables, "oneDNN, ATen and MKL, by their own switches"


def main(words: list[str]) -> int:
    """Run a command held to AVX2; its exit status. With --if-there-is-more nothing is run where there is not."""
    command = [word for word in words[:1] if word != "--if-there-is-more"] + words[1:]
    if command != words and not beyond():
        print("this processor has nothing beyond AVX2: not run again", file=sys.stderr, flush=True)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        variables, how = held(Path(folder))
        print(f"held to AVX2: {how}", file=sys.stderr, flush=True)
        return subprocess.run(command, env={**os.environ, **variables}, check=False).returncode
