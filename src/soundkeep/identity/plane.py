"""The control plane's resources, handed to every use case in place of globals."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from argon2 import PasswordHasher
from cryptography.fernet import Fernet

from soundkeep.foundation import audit
from soundkeep.foundation.audit import Deed, Event
from soundkeep.foundation.clock import Clock, Entropy
from soundkeep.foundation.database import Connection, Database
from soundkeep.identity.model import Actor

PACKAGES = ("foundation", "identity")
"""Whose schema files an identity database holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How long things last and how often one may fail."""

    token_seconds: int = 3600
    signing_key_days: int = 30
    session_idle_minutes: int = 30
    session_hours: int = 12
    failures_per_key: int = 10
    failures_per_address: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One control plane."""

    db: Database
    clock: Clock
    entropy: Entropy
    issuer: str
    vault: Fernet
    passwords: PasswordHasher
    policy: Policy = Policy()
    regions: tuple[str, ...] = ()


def digest(secret: str) -> str:
    """SHA-256, hex: enough for secrets of 256 random bits, which nobody can try out."""
    return hashlib.sha256(secret.encode()).hexdigest()


async def record(
    identity: Identity,
    tx: Connection,
    actor: Actor,
    event: Event,
    entity: tuple[str, str, str],
    *,
    new: dict[str, object] | None = None,
    old: dict[str, object] | None = None,
) -> None:
    """Append what the actor did to `entity` (type, key, display name) to the audit chain."""
    entity_type, entity_key, display_name = entity
    deed = Deed(
        customer=actor.customer,
        at_ms=identity.clock(),
        event=event,
        service="administration",
        entity_type=entity_type,
        entity_key=entity_key,
        display_name=display_name,
        user_id=actor.user.id,
        new=new or {},
        old=old or {},
    )
    await audit.append(tx, [deed], entropy=identity.entropy)


def new_id(identity: Identity) -> str:
    """A fresh random id: 96 bits, URL-safe."""
    return base64.urlsafe_b64encode(identity.entropy(12)).decode()


def new_secret(identity: Identity) -> str:
    """256 random bits, from the alphabet A-Za-z0-9-_."""
    return base64.urlsafe_b64encode(identity.entropy(32)).decode().rstrip("=")
