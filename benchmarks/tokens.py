"""Token issue against the same server's bare `/healthz`: `python benchmarks/tokens.py`."""

from __future__ import annotations

import base64

from load import Shot, bare_starlette, compare, demo, table

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def main() -> None:
    """Print the table."""
    with bare_starlette() as bare, demo() as service:
        app = service.listing["apps"][0]
        pair = base64.b64encode(f"{app['key']}:{app['secret']}".encode()).decode()
        basic = {**FORM, "Authorization": f"Basic {pair}"}
        grant = "grant_type=client_credentials"
        rates = compare(
            [
                Shot("bare Starlette on Granian", f"{bare}/healthz"),
                Shot("/healthz", f"{service.base_url}/healthz"),
                Shot("/oauth/v2/token", f"{service.base_url}/oauth/v2/token", basic, grant),
                Shot("/oauth2/token", f"{service.base_url}/oauth2/token", basic, grant),
            ]
        )
    against = dict.fromkeys(("/oauth/v2/token", "/oauth2/token"), "/healthz")
    print(table(rates, {"/healthz": "bare Starlette on Granian", **against}))


if __name__ == "__main__":
    main()
