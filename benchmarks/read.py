"""Objects by id against bare `/healthz`, content against nginx: `python benchmarks/read.py`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from load import OBJECTS, Shot, bare_starlette, compare, demo, keep, nginx, table

SIZES = {"28 KB": 28 * 1024, "5 MB": 5 * 1024 * 1024}


def main() -> None:
    """Print the table."""
    with (
        tempfile.TemporaryDirectory(prefix="soundkeep-static-") as static,
        bare_starlette() as bare,
        demo() as service,
        nginx(Path(static)) as other,
    ):
        token = service.token(2)
        bearer = {"Authorization": f"Bearer {token}"}
        shots = [
            Shot("bare Starlette on Granian", f"{bare}/healthz"),
            Shot("/healthz", f"{service.base_url}/healthz"),
        ]
        against = {"/healthz": "bare Starlette on Granian", "object by id": "/healthz"}
        for name, size in SIZES.items():
            content = os.urandom(size)
            Path(static, str(size)).write_bytes(content)
            where = f"{service.base_url}{OBJECTS}/{keep(service, token, content)}"
            if len(shots) == 2:
                shots.append(Shot("object by id", where, bearer))
            shots += [
                Shot(f"nginx {name}", f"{other}/{size}"),
                Shot(f"content {name}", f"{where}/content", bearer),
            ]
            against[f"content {name}"] = f"nginx {name}"
        print(table(compare(shots), against))


if __name__ == "__main__":
    main()
