"""Settings: the file, then the environment; what cannot work is refused with what to do."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from soundkeep import settings
from soundkeep.foundation.errors import BadSettings


@pytest.fixture
def read(tmp_path):
    def read(text="", /, **env):
        """The settings of a file with this text, and of an environment."""
        file = tmp_path / "soundkeep.toml"
        file.write_text(text, "utf-8")
        return settings.read(file, {f"SOUNDKEEP_{name}": value for name, value in env.items()})

    return read


@pytest.fixture
def refused(read):
    def refused(text="", /, **env):
        """The sentence that refuses these settings."""
        with pytest.raises(BadSettings) as error:
            read(text, **env)
        return error.value.message

    return refused


def server(**facts):
    """A `[server]` table."""
    return "[server]\n" + "\n".join(f"{name} = {value}" for name, value in facts.items())


# ---- what works -----------------------------------------------------------------------------


def test_an_empty_file_is_enough(read):
    found = read()

    assert found.server == settings.Server()
    assert found.base_url == "http://127.0.0.1:8080"
    assert not found.secure


def test_a_path_is_relative_to_the_files_folder(read, tmp_path):
    found = read('[identity]\ndatabase = "db/who.sqlite"\n[regions.uk]\nblobs = "bytes"')

    assert found.identity.database == str(tmp_path / "db/who.sqlite")
    assert found.regions["uk"].blobs == str(tmp_path / "bytes")


def test_an_absolute_path_stays(read):
    assert read('[identity]\ndatabase = "/var/x.db"').identity.database == "/var/x.db"


def test_a_path_that_is_not_given_is_filled_in(read, tmp_path):
    found = read("[regions.uk]")

    assert found.identity.secret_key_file == str(tmp_path / "secret.key")
    assert found.regions["uk"].database == str(tmp_path / "regions/uk/region.db")
    assert found.regions["uk"].blobs == str(tmp_path / "regions/uk/blobs")


def test_a_relative_path_does_not_depend_on_where_one_stands(tmp_path, monkeypatch):
    (tmp_path / "soundkeep.toml").write_text("")
    monkeypatch.chdir(tmp_path)

    found = settings.read(Path("soundkeep.toml"), {})

    assert found.identity.database == str(tmp_path / "identity.db")


@pytest.mark.parametrize("url", ["postgresql://db/who", "postgres://u:p@db/who?host=/run"])
def test_the_url_of_a_database_is_left_alone(read, url):
    assert read(f'[identity]\ndatabase = "{url}"').identity.database == url


def test_the_url_of_a_bucket_is_left_alone(read):
    assert read('[regions.uk]\nblobs = "s3://bucket/uk"').regions["uk"].blobs == "s3://bucket/uk"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (server(port=9000), "http://127.0.0.1:9000"),
        (server(host='"::1"'), "http://[::1]:8080"),
        (server(public_url='"https://keep.example/"'), "https://keep.example"),
        (server(public_url='"https://keep.example/calls/"'), "https://keep.example/calls"),
    ],
)
def test_the_base_url_is_what_clients_call(read, text, url):
    assert read(text).base_url == url


def test_a_certificate_makes_it_https(read, tmp_path):
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).touch()

    found = read(server(host='"0.0.0.0"', tls_certificate='"cert.pem"', tls_key='"key.pem"'))

    assert found.server.tls_certificate == str(tmp_path / "cert.pem")
    assert found.secure


def test_an_open_address_is_fine_behind_a_trusted_proxy(read):
    found = read(server(host='"0.0.0.0"', trusted_proxies='["10.0.0.0/8"]'))

    assert found.server.trusted_proxies == ("10.0.0.0/8",)


def test_settings_cannot_be_changed(read):
    with pytest.raises(AttributeError):
        read().server.port = 1


# ---- the environment ------------------------------------------------------------------------


def test_the_environment_overrides_the_file(read):
    assert read(server(port=9000), SERVER__PORT="9001").server.port == 9001


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("port", "9000", 9000),
        ("log_requests", "false", False),
        ("log_requests", "1", True),
        ("log_level", "debug", "debug"),
        ("trusted_proxies", "10.0.0.0/8, fd00::/8", ("10.0.0.0/8", "fd00::/8")),
        ("trusted_proxies", "", ()),
        ("metrics_networks", "10.0.0.0/8,", ("10.0.0.0/8",)),
    ],
)
def test_a_text_of_the_environment_becomes_what_the_setting_is(read, name, value, expected):
    found = read(**{f"SERVER__{name.upper()}": value})

    assert getattr(found.server, name) == expected


def test_a_region_with_a_hyphen_is_reached_by_an_underscore(read):
    found = read("[regions.us-east]", REGIONS__US_EAST__BLOBS="s3://bucket")

    assert found.regions["us-east"].blobs == "s3://bucket"


def test_the_environment_can_add_a_region(read):
    found = read("[regions.uk]", REGIONS__US_WEST__DATABASE="/var/west.db")

    assert set(found.regions) == {"uk", "us-west"}


def test_the_environment_alone_can_name_the_regions(read):
    assert set(read(REGIONS__CA__DATABASE="/var/ca.db").regions) == {"ca"}


def test_other_variables_are_no_settings(read):
    assert read(BROWSER="/usr/bin/chromium", BUILD="x").server == settings.Server()


def test_variables_of_others_are_not_looked_at(tmp_path):
    (tmp_path / "soundkeep.toml").touch()

    found = settings.read(tmp_path / "soundkeep.toml", {"OTHER_SERVER__PORT": "1"})

    assert found.server.port == 8080


# ---- refusals -------------------------------------------------------------------------------


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(BadSettings, match="soundkeep init"):
        settings.read(tmp_path / "none.toml", {})


def test_a_folder_in_the_files_place_is_refused(tmp_path):
    with pytest.raises(BadSettings, match="read it"):
        settings.read(tmp_path, {})


@pytest.mark.parametrize("content", [b"port =", b"[server", b"\xff\xfe", b"a = 1\na = 2"])
def test_a_file_that_is_no_toml_is_refused(tmp_path, content):
    file = tmp_path / "soundkeep.toml"
    file.write_bytes(content)

    with pytest.raises(BadSettings, match="Write TOML"):
        settings.read(file, {})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("[servers]", "servers"),
        (server(prot=1), "prot"),
        ("[identity]\ntoken_minutes = 1", "token_minutes"),
        ("[regions.uk]\nbucket = 'x'", "bucket"),
        ("port = 1", "port"),
    ],
)
def test_an_unknown_setting_is_named(refused, text, names):
    said = refused(text)

    assert f"`{names}`" in said
    assert "docs/settings.md" in said


def test_an_unknown_setting_of_the_environment_is_named(refused):
    assert "`prot`" in refused(SERVER__PROT="1")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (server(port='"many"'), "$.server.port"),
        (server(log_requests="2"), "$.server.log_requests"),
        (server(trusted_proxies="1"), "$.server.trusted_proxies"),
        (server(host="[]"), "$.server.host"),
        ("server = 1", "$.server"),
        ("regions = ['uk']", "$.regions"),
        ("[identity]\ntoken_seconds = 1.5", "$.identity.token_seconds"),
    ],
)
def test_a_wrong_type_is_refused_where_it_stands(refused, text, names):
    assert f"at `{names}`" in refused(text)


def test_a_wrong_type_in_the_environment_is_refused(refused):
    assert "$.server.port" in refused(SERVER__PORT="many")


def test_a_variable_below_what_is_no_table_is_refused(refused):
    assert "SOUNDKEEP_SERVER__PORT" in refused("server = 1", SERVER__PORT="1")


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("[regions]", "[regions.us-east]"),
        ("[regions.UK]", "use a-z, 0-9 and -"),
        ("[regions.1]", "a letter first"),
        ("[regions.'a/../b']", "use a-z, 0-9 and -"),
        (f"[regions.{'a' * 32}]", "use a-z, 0-9 and -"),
        (server(trusted_proxies='["10.0.0.1/8"]'), "Write a CIDR range like 10.0.0.0/8"),
        (server(metrics_networks='["everybody"]'), "Write a CIDR range like 10.0.0.0/8"),
        (server(tls_certificate='"cert.pem"'), "set both"),
        (server(tls_key='"key.pem"'), "set both"),
        (server(tls_certificate='"cert.pem"', tls_key='"key.pem"'), "cert.pem: no such file"),
        (server(host='"0.0.0.0"'), "list your TLS proxy in server.trusted_proxies"),
        (server(host='"::"'), "or listen on 127.0.0.1"),
        (server(host='"keep.example"'), "server.tls_certificate"),
        (server(public_url='"keep.example"'), "https://recordings.example.com"),
        (server(public_url='"ftp://keep.example"'), "https://recordings.example.com"),
        (server(public_url='"https://keep.example?x=1"'), "https://recordings.example.com"),
        (server(log_level='"loud"'), "one of debug, info, warning, error, critical"),
        (server(port=-1), "server.port must be at least 0"),
        (server(port=65536), "server.port must be at most 65535"),
        (server(workers=0), "server.workers must be at least 1"),
        ("[regions.uk]\nmax_upload_bytes = 0", "regions.uk.max_upload_bytes must be at least 1"),
        ("[regions.uk]\nmin_free_bytes = -1", "regions.uk.min_free_bytes must be at least 0"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_what_to_do(refused, text, advice):
    assert advice in refused(text)


NUMBERS = [name for name, kind in settings.Identity.__annotations__.items() if kind == "int"]


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_of_identity_is_at_least_one(refused, name):
    assert refused(f"[identity]\n{name} = 0") == f"identity.{name} must be at least 1."


SHARED = "postgresql://keeper:hunter2@db/soundkeep"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (f'[identity]\ndatabase = "{SHARED}"\n[regions.uk]\ndatabase = "{SHARED}"',
         ("identity.database", "regions.uk.database")),
        (f'[regions.uk]\ndatabase = "{SHARED}"\n[regions.ca]\ndatabase = "{SHARED}"',
         ("regions.uk.database", "regions.ca.database")),
        ('[regions.uk]\nblobs = "s3://bucket"\n[regions.ca]\nblobs = "s3://bucket"',
         ("regions.uk.blobs", "regions.ca.blobs")),
    ],
    ids=["identity and region", "regions", "blobs"],
)  # fmt: skip
def test_two_parts_in_one_place_are_refused_without_telling_its_password(refused, text, names):
    said = refused(text)

    assert said == f"{names[0]} and {names[1]} are one place: give each its own."


# ---- buckets --------------------------------------------------------------------------------

ON_AWS = '[regions.uk]\nblobs = "s3://calls/uk"\n'
KEYS = 'access_key_id = "AK"\nsecret_access_key_file = "s3.secret"\n'


def s3(blobs='"s3://calls/uk"', /, **facts):
    """A region in a bucket, with such a table."""
    lines = "\n".join(f"{name} = {value}" for name, value in facts.items())
    return f"[regions.uk]\nblobs = {blobs}\n[regions.uk.s3]\n{lines}\n"


def test_a_bucket_on_aws_needs_no_more_than_its_name(read):
    found = read(ON_AWS).regions["uk"]

    assert found.blobs == "s3://calls/uk"
    assert found.s3 == settings.S3Settings()


def test_a_secret_is_read_from_its_file_beside_the_settings(read, tmp_path):
    (tmp_path / "s3.secret").write_text("hunter2\n")
    found = read(s3() + KEYS).regions["uk"].s3

    assert (found.access_key_id, found.secret_access_key) == ("AK", "hunter2")
    assert found.secret_access_key_file == str(tmp_path / "s3.secret")


def test_a_secret_comes_from_the_environment_too(read):
    found = read(
        s3(endpoint='"https://s3.test:9000/"', addressing='"virtual"', checksum='"none"'),
        REGIONS__UK__S3__ACCESS_KEY_ID="AK",
        REGIONS__UK__S3__SECRET_ACCESS_KEY="hunter2",
    ).regions["uk"].s3  # fmt: skip

    assert (found.access_key_id, found.secret_access_key) == ("AK", "hunter2")
    assert (found.endpoint, found.addressing) == ("https://s3.test:9000", "virtual")
    assert found.checksum == "none"


def test_settings_do_not_show_their_secrets(read):
    keys = {"ACCESS_KEY_ID": "AK", "SECRET_ACCESS_KEY": "hunter2"}
    found = read(ON_AWS, **{f"REGIONS__UK__S3__{name}": value for name, value in keys.items()})

    assert found.regions["uk"].s3.secret_access_key == "hunter2"
    assert "hunter2" not in repr(found) + str(found)
    assert "AK" in repr(found)


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:8333", "http://localhost:8333", "http://[::1]:8333"]
)
def test_plain_http_is_fine_on_the_same_machine(read, tmp_path, endpoint):
    (tmp_path / "s3.secret").write_text("hunter2")

    assert read(s3(endpoint=f'"{endpoint}"') + KEYS).regions["uk"].s3.endpoint == endpoint


def test_plain_http_elsewhere_has_to_be_allowed(read, refused, tmp_path):
    (tmp_path / "s3.secret").write_text("hunter2")
    text = s3(endpoint='"http://10.0.0.7:9000"') + KEYS

    assert "set allow_http = true" in refused(text)
    assert read(text + "allow_http = true").regions["uk"].s3.allow_http


def test_two_stores_may_have_buckets_of_one_name(read, tmp_path):
    (tmp_path / "s3.secret").write_text("hunter2")
    one = s3('"s3://calls"', endpoint='"https://s3.uk.test"') + KEYS
    other = s3('"s3://calls/"', endpoint='"https://s3.ca.test"') + KEYS

    assert set(read(one + other.replace("uk]", "ca]").replace("uk.s3", "ca.s3")).regions) == {
        "uk",
        "ca",
    }


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (s3('"s3://"'), "must be like s3://BUCKET"),
        (s3('"s3://Calls"'), "must be like s3://BUCKET"),
        (s3('"s3://calls/../x"'), "must be like s3://BUCKET"),
        (s3('"s3://calls//x"'), "must be like s3://BUCKET"),
        (s3('"s3://calls/a b"'), "must be like s3://BUCKET"),
        (s3('"s3://calls?x=1"'), "must be like s3://BUCKET"),
        (s3(region='"eu.example.com/"'), "regions.uk.s3.region must be like us-east-1"),
        (s3(addressing='"dns"'), "$.regions[...].s3.addressing"),
        (s3(checksum='"md5"'), "$.regions[...].s3.checksum"),
        (s3(endpoint='"s3.test"') + KEYS, "regions.uk.s3.endpoint must be like https://"),
        (s3(endpoint='"https://AK:hunter2@s3.test"') + KEYS, "must be like https://"),
        (s3(endpoint='"https://s3.test/calls"') + KEYS, "must be like https://"),
        (s3(endpoint='"https://s3.test"'), "only on AWS may both be left out"),
        (s3(access_key_id='"AK"'), "go together"),
        (s3(secret_access_key_file='"s3.secret"'), "go together"),
        (s3(secret_access_key='"hunter2"'), "does not belong into this file"),
        (s3() + KEYS, "s3.secret: no secret (regions.uk.s3.secret_access_key_file)"),
        (s3('"bytes"', region='"eu-north-1"'), "regions.uk.s3 needs a bucket"),
    ],
)
def test_a_bucket_that_cannot_work_is_refused_with_what_to_do(refused, text, advice):
    said = refused(text)

    assert advice in said
    assert "hunter2" not in said


def test_a_secret_that_is_given_twice_is_refused(refused):
    assert "given twice" in refused(s3() + KEYS, REGIONS__UK__S3__SECRET_ACCESS_KEY="hunter2")


# ---- all of them ----------------------------------------------------------------------------


def test_every_refusal_is_a_sentence_that_ends(refused):
    assert refused("[regions]").endswith(".")
    assert refused("[servers]").endswith(".")
    assert refused(SERVER__PORT="many").endswith(".")


def test_every_setting_can_be_given_by_the_environment(read):
    """Whatever is in the tables: a variable for it is understood."""
    tables = {"SERVER": settings.Server(), "IDENTITY": settings.Identity(),
              "REGIONS__UK": settings.RegionSettings()}  # fmt: skip
    values = {
        f"{table}__{name}".upper(): ",".join(value) if isinstance(value, tuple) else str(value)
        for table, default in tables.items()
        for name, value in msgspec.structs.asdict(default).items()
        if name not in ("s3", "quotas")  # tables within the table
    }

    assert read(**values) == read("[regions.uk]")


def test_every_setting_of_a_bucket_can_be_given_by_the_environment(read):
    defaults = msgspec.structs.asdict(settings.S3Settings())
    values = {f"REGIONS__UK__S3__{name}".upper(): str(value) for name, value in defaults.items()}

    assert read(ON_AWS, **values) == read(ON_AWS)
