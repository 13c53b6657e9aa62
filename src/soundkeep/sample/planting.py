"""Fills an empty installation with two companies, their people, API keys and audible recordings.

Everything goes through the use cases that the console and the API use. `sample.json` lists the
recordings; their times are relative, so that a demo made today has recordings of today.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files

import msgspec

from soundkeep.foundation.claims import Access, Claims, internal
from soundkeep.foundation.clock import MINUTE, SECOND, iso_seconds
from soundkeep.identity import accounts, apps, roles
from soundkeep.identity.accounts import NewUser
from soundkeep.identity.model import BUILT_IN, Actor, ScopeItem, ScopeKind
from soundkeep.identity.plane import Identity
from soundkeep.region.arrivals import Upload, Wanted
from soundkeep.region.plane import Region

CUSTOMER = "acme"
COMPANY = ScopeItem(ScopeKind.COMPANY)
NEW_YORK = ScopeItem(ScopeKind.SITE, "site-ny")
_ADDRESS = "127.0.0.1"
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
_REFERENCE = re.compile(r"\{id:([^}]+)\}")


@dataclass(frozen=True, slots=True)
class Person:
    """A user to be made, with one assignment."""

    email: str
    name: str
    role: str
    scope: ScopeItem = COMPANY


@dataclass(frozen=True, slots=True)
class Company:
    """A customer to be made; the first of its people is the Super Admin."""

    id: str
    name: str
    sites: Mapping[str, str]
    people: tuple[Person, ...]


@dataclass(frozen=True, slots=True)
class Key:
    """An API key to be made."""

    customer: str
    name: str
    owner: str
    access: Access
    scope: ScopeItem = COMPANY


COMPANIES = (
    Company(
        "acme",
        "Acme",
        {"site-sj": "San Jose", "site-ny": "New York"},
        (
            Person("superadmin@acme.test", "Sam Okafor", "super-admin"),
            Person("storage@acme.test", "Stella Reyes", "storage-api"),
            Person("basic@acme.test", "Ben Marsh", "basic-user"),
            Person("nina@acme.test", "Nina Castillo", "storage-api", NEW_YORK),
            Person("omar@acme.test", "Omar Haddad", "storage-admin"),
        ),
    ),
    Company(
        "globex",
        "Globex",
        {"site-ldn": "London"},
        (
            Person("superadmin@globex.test", "Grace Lindqvist", "super-admin"),
            Person("storage@globex.test", "Stephen Obi", "storage-api"),
            Person("basic@globex.test", "Bea Novak", "basic-user"),
        ),
    ),
)
KEYS = (
    Key("acme", "acme-read", "storage@acme.test", Access.READ),
    Key("acme", "acme-download", "storage@acme.test", Access.DOWNLOAD),
    Key("acme", "acme-edit", "storage@acme.test", Access.EDIT),
    Key("acme", "acme-new-york-edit", "nina@acme.test", Access.EDIT, NEW_YORK),
    Key("globex", "globex-edit", "storage@globex.test", Access.EDIT),
)


class Recording(msgspec.Struct, frozen=True, rename="camel"):
    """An entry of `sample.json`."""

    ref: str
    file: str
    customer: str
    region: str
    type: str
    mime_type: str
    object_name: str
    user: str
    bucket: str
    minutes_ago: int
    tags: dict[str, str]


async def plant(
    identity: Identity, regions: Mapping[str, Region], *, base_url: str
) -> dict[str, object]:
    """Fill it; what was made, as `demo.json` lists it: sign-ins and API keys in the clear."""
    password = _password()
    people: dict[str, Actor] = {}
    for company in COMPANIES:
        people |= await _company(identity, company, tuple(regions), password)
    listed = []
    for key in KEYS:
        made = await apps.create(
            identity,
            people[key.owner],
            apps.Wanted(name=key.name, products=("storage",), access=key.access),
        )
        scope = f"{key.scope.kind}:{key.scope.target}".rstrip(":")
        listed.append(
            {
                "customer": key.customer,
                "name": key.name,
                "key": made.app.key,
                "secret": made.secret,
                "access": key.access,
                "scope": scope,
                "owner": key.owner,
            }
        )
    await _record(regions, people)
    return {
        "base_url": base_url,
        "customer_id": CUSTOMER,
        "regions": list(regions),
        "console_url": f"{base_url}/console/",
        "users": [
            {"email": each.email, "password": password, "roles": [BUILT_IN[each.role].name]}
            for company in COMPANIES
            for each in company.people
        ],
        "apps": listed,
    }


def recordings() -> list[Recording]:
    """The entries of `sample.json`, each after those that it refers to."""
    raw = msgspec.json.decode(_file("sample.json"), type=dict[str, list[Recording]])
    return sorted(raw["objects"], key=lambda each: bool(_references(each)))


async def _company(
    identity: Identity, company: Company, regions: tuple[str, ...], password: str
) -> dict[str, Actor]:
    """Customer, people, sites and assignments; everybody as they are signed in."""
    first = company.people[0]
    await accounts.add_customer(
        identity,
        company=company.name,
        customer_id=company.id,
        admin=NewUser(email=first.email, name=first.name, password=password),
        regions=regions,
    )
    boss = await _actor(identity, first.email, password)
    for site_id, name in company.sites.items():
        await accounts.create_site(identity, boss, site_id=site_id, name=name)
    for person in company.people[1:]:
        wanted = NewUser(email=person.email, name=person.name, password=password)
        user = await accounts.create_user(identity, boss, wanted)
        await roles.assign(
            identity, boss, user_id=user.id, role_ids=[person.role], scopes=[person.scope]
        )
    return {each.email: await _actor(identity, each.email, password) for each in company.people}


async def _actor(identity: Identity, email: str, password: str) -> Actor:
    cookie = await accounts.sign_in(identity, email=email, password=password, address=_ADDRESS)
    signed_in = await accounts.signed_in(identity, cookie)
    assert signed_in is not None
    await accounts.sign_out(identity, cookie)
    return signed_in.actor


async def _record(regions: Mapping[str, Region], people: Mapping[str, Actor]) -> None:
    ids: dict[str, str] = {}
    for entry in recordings():
        region, owner = regions[entry.region], people[entry.user]
        ended_ms = region.clock() - entry.minutes_ago * MINUTE
        name, tags = _dated(entry, ended_ms, ids)
        async with Upload(region, uploader(entry.customer, owner.user.id, regions)) as upload:
            await upload.write(_file(entry.file))
            wanted = Wanted(
                type=entry.type,
                name=name,
                mime_type=entry.mime_type,
                bucket_id=f"{entry.customer}-{entry.bucket}",
                tags=tags,
            )
            stored = await upload.finish(wanted, created_ms=ended_ms)
        ids[entry.ref] = stored.id


def uploader(customer: str, owner: str, regions: Iterable[str]) -> Claims:
    """Claims of somebody who may add anything to a customer's recordings."""
    return internal(customer, by="sample", owner=owner, regions=tuple(regions))


def _dated(entry: Recording, ended_ms: int, ids: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Name and tags with the times of today and the ids of the objects referred to."""
    duration = float(entry.tags.get("duration", "0"))
    in_seconds = entry.type == "transcription"
    start_ms = ended_ms - int(duration * (SECOND if in_seconds else 1))

    def today(text: str) -> str:
        text = text.replace("{start_ms}", str(start_ms)).replace("{end_ms}", str(ended_ms))
        text = _DATE.sub(iso_seconds(start_ms), text)
        return _REFERENCE.sub(lambda found: ids[found[1]], text)

    return today(entry.object_name), {key: today(value) for key, value in entry.tags.items()}


def _references(entry: Recording) -> list[str]:
    return [ref for value in entry.tags.values() for ref in _REFERENCE.findall(value)]


def _file(name: str) -> bytes:
    return (files("soundkeep.sample") / name).read_bytes()


def _password() -> str:
    """One for everybody, easy to type, new in every demo: 60 bits."""
    return "-".join("".join(secrets.choice(_LETTERS) for _ in range(4)) for _ in range(3))


def words(listing: Mapping[str, object]) -> str:
    """What a person reads when a demo starts: where to sign in, and lines to paste."""
    made = msgspec.convert(listing, _Listing)
    base, app = made.base_url, made.apps[1]
    people = "\n".join(
        f"  {each.email:<24} {each.password}   {', '.join(each.roles)}" for each in made.users
    )
    storage = f"{base}/storage/{made.regions[0]}/v3"
    objects, download = f"{storage}/objects", f"{storage}/bulk/download"
    authorized = '-H "Authorization: Bearer $TOKEN"'
    return f"""
Console: {made.console_url}
{people}

A token, the newest recordings, one of them as a file, and all of them as a ZIP:

TOKEN=$(curl -s -u '{app.key}:{app.secret}' -d grant_type=client_credentials {base}/oauth/v2/token | sed 's/.*"access_token":"\\([^"]*\\)".*/\\1/')
curl -s {authorized} '{objects}?limit=3'
ID=$(curl -s {authorized} '{objects}?filter=type==callrecording&limit=1' | sed 's/.*"content":\\[{{"id":"\\([^"]*\\)".*/\\1/')
curl -s {authorized} -o recording.mp3 "{objects}/$ID/content"
ZIP=$(curl -s {authorized} -X POST '{download}/start?filter=type==callrecording&manifest=true' | sed 's/.*"zipName":"\\([^"]*\\)".*/\\1/')
curl -s {authorized} -o recordings.zip "{download}/$ZIP"
"""  # noqa: E501  lines to be pasted as they are


class _User(msgspec.Struct):
    email: str
    password: str
    roles: list[str]


class _App(msgspec.Struct):
    key: str
    secret: str


class _Listing(msgspec.Struct):
    base_url: str
    console_url: str
    regions: list[str]
    users: list[_User]
    apps: list[_App]
