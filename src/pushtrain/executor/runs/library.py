"""Show the job `pushtrain`'s API for jobs, so that a script can import it without installing anything."""

from pathlib import Path
from typing import Final

import pushtrain
from pushtrain.core.errors import StorageError
from pushtrain.plumbing.attempts.rundir import RunDir

_FILES: Final = {"jobinit.py": "__init__.py", "job.py": "job.py"}


def show(folder: RunDir) -> None:
    """Lay the package into what the job can read.

    Raises:
        StorageError: It cannot be written.
    """
    source = Path(pushtrain.__file__).parent
    package = folder.library / "pushtrain"
    try:
        package.mkdir(parents=True, exist_ok=True)
        for name, there in _FILES.items():
            path = package / there
            path.write_bytes((source / name).read_bytes())
            path.chmod(0o644)
        for at in (package, folder.library):
            at.chmod(0o755)
    except OSError as error:
        raise StorageError(f"{package} could not be written: {error.strerror}.") from error
