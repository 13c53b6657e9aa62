"""What seals the keys that databases hold: the installation's secret key."""

from __future__ import annotations

from pathlib import Path

from cryptography.fernet import Fernet

from soundkeep.foundation.errors import BadSettings


def vault(secret_key_file: Path) -> Fernet:
    """What seals and opens keys, from the secret key file; BadSettings where it holds none."""
    try:
        return Fernet(secret_key_file.read_bytes().strip())
    except OSError as error:
        raise BadSettings(
            f"{secret_key_file}: {error.strerror} (identity.secret_key_file)."
        ) from None
    except ValueError:
        raise BadSettings(
            f"{secret_key_file}: not a secret key. `soundkeep init` makes one."
        ) from None
