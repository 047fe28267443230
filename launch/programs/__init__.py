"""The telemetry programs: otelcol, Prometheus, Loki, Alertmanager and two exporters, each in one version.

`catalogue` reads what is wanted from `otel-collector/programs/`; `installer` gets a program from the first
source that has it: the cache, PATH (`on_path`), the official release (`release`), a build by Go (`build`,
with the Go of `toolchain`). `pins` learns the releases' checksums. `command` runs and ends other programs.

    python -m launch.programs [NAME ...]
"""

from launch.programs.errors import ProgramError, Stopped
from launch.programs.installer import ALL, install, install_all

__all__ = ["ALL", "ProgramError", "Stopped", "install", "install_all"]
