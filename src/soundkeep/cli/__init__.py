"""The command `soundkeep`: one file for each noun, one command for each verb.

Exit codes: 0 done, 1 failed, 2 wrong use. Errors are one line on standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from soundkeep import __version__
from soundkeep.cli import demo, doctor, init, migrate, objects, serve
from soundkeep.foundation.errors import SoundkeepError

DONE, FAILED, WRONG_USE = 0, 1, 2

app = App(
    name="soundkeep",
    help="A self-hosted cloud storage service for call recordings.",
    version=__version__,
)
for _command in (init, serve, migrate, doctor, objects, demo):
    app.command(_command.command, name=_command.NAME)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; what it writes is its user's alone."""
    os.umask(0o077)
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command line; its exit code."""
    try:
        result = app(list(arguments), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return _complain(f"{error} See: soundkeep --help", WRONG_USE)
    except SoundkeepError as error:
        return _complain(error.message, FAILED)
    except OSError as error:
        return _complain(f"{error.filename or ''}: {error.strerror}".lstrip(": "), FAILED)
    except KeyboardInterrupt:
        return _complain("stopped.", FAILED)
    return result if isinstance(result, int) else DONE


def _complain(message: str, code: int) -> int:
    print(f"soundkeep: {' '.join(message.split())}", file=sys.stderr)
    return code
